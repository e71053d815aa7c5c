"""The objects of the clips: cut-outs with a name that fits into a sentence, their pictures and their recordings."""

import functools
import io
import json
import re
import tarfile
from dataclasses import dataclass, field

from ending import EX_DATA, EX_UNAVAILABLE, Failure

LANGUAGES = {"en": "English", "bg": "Bulgarian", "ca": "Catalan", "el": "Greek", "es": "Spanish", "fr": "French",
             "ro": "Romanian", "ru": "Russian"}

# Words of names that are signs, groups or parts rather than things, that two pictures share too easily, or that have no
# plural of their own.
UNFIT = frozenset("""
    adult africa alien all americas and angry another aquarius aries arrival arrow arrows artist asia astonished
    at baby back bacon badminton bald bandage banknote beard bikini biting blossom bowling boy boys bread breast
    broccoli bubbles butter button buttons camping cancer capricorn chart cheese child cinema circle circled
    cityscape claim claus clothes collision construction control cook cooking copyright coral couple cricket
    crossing curly currency custard customs dancing dango dash dashing deaf decoration departure detective
    diamond divide dizzy dna done dusk elf emblem exchange exclamation eye eyes face facing fairy family farmer
    feeding finger fire fireworks fist flag fog foggy folder folk fondue food frame frames from fuji garlic
    gemini genie girl girls golfing grass guard hair haircut hand hands handshake head headstone heart hearts
    high hockey holding hole hot human ice identification inbox index infinity information input judge kiss
    kissing kneeling lacrosse ladies ledger left leg leo level libra lightning link lip lips liquid litter
    locked low luggage lungs mage mail man mark marks mate meat mechanic medal medium memo men mending mens
    mermaid merman merperson metro middle milk milky minus mode money moon motorway moustache mouth multiply
    musical nail nails national night ninja no nose numbers oden off officer om on one ophiuchus order other
    outbox outlined oysters palm part people person pilot pin ping pisces playing plus poo popcorn potable
    pouring prince princess prohibited racing radioactive rail rain receipt recycling registered rice right
    rightwards running sagittarius sake salad salt salute santa sari scientist scorpio scroll selfie shaking
    shape shaved shock sign silhouette singer skis smiling snow soap someone something spades spaghetti square
    standing steaming stone strip struck student suit sunrise sunset superhero supervillain sushi sweat swimming
    symbol t tabs taurus teacher tears technologist tennis text thirty thread thumbs ticket tongue track
    transgender triangle troll two under unlocked up vampire virgo vulcan warning water wave waving weapon
    wearing wedding woman women wood worker wrestling writing x yarn yen yin zombie zzz
""".split())

IRREGULAR = {"mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth", "ox": "oxen", "leaf": "leaves",
             "wolf": "wolves", "knife": "knives", "loaf": "loaves", "scarf": "scarves", "calf": "calves", "elf": "elves",
             "shelf": "shelves", "half": "halves", "sheep": "sheep", "fish": "fish", "deer": "deer", "bison": "bison",
             "shrimp": "shrimp", "squid": "squid", "salmon": "salmon", "aircraft": "aircraft", "spacecraft": "spacecraft",
             "potato": "potatoes", "tomato": "tomatoes", "volcano": "volcanoes", "dodo": "dodos", "snowman": "snowmen",
             "fireman": "firemen", "policeman": "policemen", "cactus": "cacti", "moose": "moose", "boar": "boars",
             "hippopotamus": "hippopotamuses", "caribou": "caribou", "woodlouse": "woodlice", "mango": "mangoes", "tornado": "tornadoes"}


@dataclass
class Thing:
    """All pictures and recordings of one name."""

    name: str
    pictures: list = field(default_factory=list)  # keys
    sounds: list = field(default_factory=list)  # file names of its sounds
    speech: dict = field(default_factory=dict)  # language: file names of its name being spoken

    @property
    def words(self):
        return frozenset(re.findall(r"[a-z]+", self.name.lower()))

    @property
    def one(self):
        """With its article: "an owl"."""
        sounded = re.match(r"(?:[aeio]|u(?!ni|ku|s[ei]|-))", self.name.lower())
        return ("an " if sounded and not re.match(r"(?:one|eu|ew)", self.name.lower()) else "a ") + self.name

    @property
    def the(self):
        return "the " + self.name

    @property
    def many(self):
        """The plural: "owls"."""
        *first, last = self.name.split(" ")
        start, _, noun = last.rpartition("-")
        if noun in IRREGULAR:
            plural = IRREGULAR[noun]
        elif noun.endswith("fish"):
            plural = noun
        elif re.search(r"(?:s|x|z|ch|sh)$", noun):
            plural = noun + "es"
        elif re.search(r"[^aeiou]y$", noun):
            plural = noun[:-1] + "ies"
        else:
            plural = noun + "s"
        return " ".join([*first, (start + "-" if start else "") + plural])


def fitting_name(caption, kind):
    """The bare name of a caption such as "A red apple.", or None where it does not fit into a sentence."""
    text = caption.strip().rstrip(".! ")
    if kind != "emoji":
        bare = re.sub(r"^(?:a|an)\s+", "", text, flags=re.IGNORECASE)
        if bare == text:
            return None
        text = bare
    if not re.fullmatch(r"[A-Za-z]+(?:[ -][A-Za-z]+){0,2}", text) or len(text) > 24:
        return None
    words = re.split(r"[ -]", text)
    if (kind == "emoji" and len(words) > 2) or UNFIT & {word.lower() for word in words}:
        return None
    if re.search(r"(?<!s)(?<!u)(?<!i)s$", words[-1]) or {"of", "with", "in", "for", "or", "a"} & set(words):
        return None
    return text


class Objects:
    """The objects of both splits, read from the cut-outs that scripts/fetch-data makes."""

    def __init__(self, folder):
        self.things = {}
        self.files = {}
        if not (folder / "made.json").exists():
            raise Failure(EX_UNAVAILABLE, f"{folder}: no cut-outs there: run scripts/fetch-data cut-outs")
        for split in ("train", "val"):
            self.things[split] = self._read(folder / split)

    def _read(self, folder):
        shard = folder / "00000.tar"
        try:
            with tarfile.open(shard) as tar:
                files = {member.name: tar.extractfile(member).read() for member in tar}
        except (OSError, tarfile.TarError) as error:
            raise Failure(EX_DATA, f"{shard}: {error}; make it again: scripts/fetch-data --force cut-outs") from None
        things = {}
        for name in sorted(files):
            if not name.endswith(".json"):
                continue
            facts = json.loads(files[name])
            key = facts["image_id"]
            fitting = fitting_name(facts["captions"][0], facts["kind"])
            if fitting is None or key + ".png" not in files:
                continue
            thing = things.setdefault(fitting.lower(), Thing(fitting))
            thing.pictures.append(key)
            if (sound := key + ".sound.ogg") in files:
                thing.sounds.append(sound)
            for language in LANGUAGES:
                if (speech := f"{key}.speech_{language}.ogg") in files:
                    thing.speech.setdefault(language, []).append(speech)
        if not things:
            raise Failure(EX_DATA, f"{shard}: no cut-out with a fitting name")
        self.files |= files
        return sorted(things.values(), key=lambda thing: thing.name)

    @functools.lru_cache(maxsize=256)
    def picture(self, key):
        """The cut-out in RGBA."""
        from PIL import Image

        return Image.open(io.BytesIO(self.files[key + ".png"])).convert("RGBA")

    def _small(self, key):
        """The cut-out in the middle of a square that it fits into however it is turned, and its own part of it."""
        from PIL import Image

        picture = self.picture(key)
        square = Image.new("RGBA", (48, 48))
        small = picture.resize(tuple(max(1, round(side * 34 / max(picture.size))) for side in picture.size))
        square.paste(small, ((48 - small.width) // 2, (48 - small.height) // 2))
        return square, small.width * small.height

    @functools.cache
    def look(self, key):
        """(width and height over the longer side, mean colour, share of opaque pixels) of a cut-out."""
        import numpy

        width, height = self.picture(key).size
        square, area = self._small(key)
        values = numpy.asarray(square, dtype=numpy.float64)
        alpha = values[..., 3:] / 255
        colour = (values[..., :3] * alpha).sum((0, 1)) / max(alpha.sum(), 1)
        longest = max(width, height)
        return (width / longest, height / longest), tuple(float(c) for c in colour), float(alpha.sum() / area)

    @functools.cache
    def turn_shows(self, key):
        """How much a cut-out changes when it is turned, 0...1: the least over 40, 60, ... 320 degrees."""
        import numpy
        from PIL import Image

        square, _ = self._small(key)
        values = numpy.asarray(square, dtype=numpy.float64)
        alpha = values[..., 3:] / 255
        least = 1.0
        for angle in range(40, 321, 20):
            turned = numpy.asarray(square.rotate(angle, Image.Resampling.BILINEAR), dtype=numpy.float64)
            difference = numpy.abs(turned[..., :3] * turned[..., 3:] / 255 - values[..., :3] * alpha).mean(2)
            difference += numpy.abs(turned[..., 3] - values[..., 3])
            either = numpy.maximum(turned[..., 3], values[..., 3]).sum()
            least = min(least, float(difference.sum() / max(either, 255)))
        return least
