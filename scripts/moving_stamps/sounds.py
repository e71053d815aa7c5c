"""What is heard: a recording of a stamp, its name spoken in one of eight languages, or a name spoken by a machine."""

import struct

from .objects import LANGUAGES

VOICES = ("slt", "awb", "rms", "kal16")  # of flite, in FFmpeg

# Shares of what a clip's sound is: no track at all, the sound or the name of what is shown (nothing is asked), and three
# kinds about which is asked.
USES = {"none": 12, "shown": 20, "word": 34, "language": 17, "sound": 17}

LONGEST_SPEECH, LATEST_START = 1.7, 0.3  # seconds: any speech ends before the shortest clip does


def ogg_seconds(data):
    """The length of an Ogg Vorbis file; infinite if it is something else."""
    head, last = data.find(b"\x01vorbis"), data.rfind(b"OggS")
    if head < 0 or last < 0 or len(data) < max(head + 16, last + 14):
        return float("inf")
    rate, = struct.unpack_from("<I", data, head + 12)
    samples, = struct.unpack_from("<q", data, last + 6)
    return samples / rate if rate else float("inf")


class Sounds:
    """Draws the sound of one clip after another and asks about it."""

    def __init__(self, objects, split, random, voices):
        from .scenes import Deck

        self.random, self.voices = random, voices
        things = objects.things[split]
        self.speech = {}  # (name, language): short recordings
        for thing in things:
            for language, files in thing.speech.items():
                short = [file for file in files if ogg_seconds(objects.files[file]) <= LONGEST_SPEECH]
                if short:
                    self.speech[thing.name, language] = short
        self.all = Deck(random, things)
        self.spoken = Deck(random, [thing for thing in things if (thing.name, "en") in self.speech])
        self.sounding = Deck(random, [thing for thing in things if thing.sounds])
        self.languages = Deck(random, LANGUAGES)
        self.foreign = {language: Deck(random, [t for t in things if (t.name, language) in self.speech])
                        for language in LANGUAGES}
        self.uses = Deck(random, [use for use, share in USES.items() for _ in range(share)])

    def draw(self, shown, questions):
        """What is heard in a clip that shows these things; None for no track."""
        use = self.uses.draw()
        if use == "none":
            return None
        sound = getattr(self, use)(shown, questions)
        return {"use": use, "start": round(self.random.uniform(0, LATEST_START), 3), **sound}

    def shown(self, shown, questions):
        thing = shown[0]
        recordings = thing.sounds + self.speech.get((thing.name, "en"), [])
        if recordings:
            return {"name": thing.name, "file": self.random.choice(recordings)}
        return self.synthetic(thing) if self.voices else {"use": "other", **self.sound(shown, None)}

    def synthetic(self, thing):
        return {"name": thing.name, "text": thing.name, "voice": self.random.choice(VOICES)}

    def four(self, deck):
        """Four things with nothing in common in their names, and the one of them that is heard."""
        chosen = []
        for _ in range(4):
            words = frozenset().union(*(thing.words for thing in chosen))
            chosen.append(deck.draw(lambda thing: not thing.words & words))
        return chosen, self.random.choice(chosen)

    def word(self, shown, questions):
        recorded = not self.voices or self.random.random() < 0.4
        choices, heard = self.four(self.spoken if recorded else self.all)
        questions.sound(("Which word is spoken?", "What does the voice say?"), heard.name, [t.name for t in choices])
        if recorded:
            return {"name": heard.name, "file": self.random.choice(self.speech[heard.name, "en"])}
        return self.synthetic(heard)

    def language(self, shown, questions):
        code = self.languages.draw()
        heard = self.foreign[code].draw()
        others = self.random.sample([other for other in LANGUAGES if other != code], 3)
        questions.sound(("Which language is spoken?", "In which language does the voice speak?"), LANGUAGES[code],
                        [LANGUAGES[choice] for choice in (code, *others)])
        return {"name": heard.name, "file": self.random.choice(self.speech[heard.name, code])}

    def sound(self, shown, questions):
        choices, heard = self.four(self.sounding)
        if questions:
            questions.sound(("Which sound is heard?", "What does this sound like?"), heard.one, [t.one for t in choices])
        return {"name": heard.name, "file": self.random.choice(heard.sounds)}
