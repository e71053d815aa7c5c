"""The sentences: what happens, told in several ways, and questions about it."""

WAYS = 3  # captions of a clip: each event is told in so many ways

DIRECTIONS = ("left", "right", "up", "down")
AXES = {"horizontal": ("left", "right"), "vertical": ("up", "down")}
TURNS = ("clockwise", "counterclockwise")
SIZES = ("grows", "shrinks")
PRESENCES = ("appears", "disappears")
NUMBERS = ("one", "two", "three", "four")

VERBS = {
    "left": ("moves left", "is moving to the left", "goes left"),
    "right": ("moves right", "is moving to the right", "goes right"),
    "up": ("moves up", "is moving upwards", "goes up"),
    "down": ("moves down", "is moving downwards", "goes down"),
    "clockwise": ("turns clockwise", "is turning clockwise", "rotates clockwise"),
    "counterclockwise": ("turns counterclockwise", "is turning counterclockwise", "rotates counterclockwise"),
    "grows": ("grows", "is getting bigger", "becomes larger"),
    "shrinks": ("shrinks", "is getting smaller", "becomes smaller"),
    "appears": ("appears", "comes into view", "shows up"),
    "disappears": ("disappears", "vanishes", "goes out of view"),
    "stays": ("stays where it is", "does not move", "stands still"),
    "comes and goes": ("is shown and goes away", "appears and disappears", "comes and goes"),
}
# What an event is when the clip is played backwards; the rest stays what it is.
OPPOSITES = {a: b for pair in (*AXES.values(), TURNS, SIZES, PRESENCES) for a, b in (pair, pair[::-1])}
SPEEDS = {"slowly": ("slowly", "slowly", "at a low speed"), "quickly": ("quickly", "fast", "at a high speed")}

COLUMNS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
ROWS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")

THEN = ("{0}, then {1}", "first {0}, then {1}", "{0}, and after that {1}")
WHILE = ("{0} while {1}", "{0} and {1}", "{1} while {0}")


def sentences(subject, event, speed=None):
    """A clause in every way: "a bee moves left", "a bee is moving to the left", …"""
    manner = SPEEDS[speed] if speed else ("",) * WAYS
    return [" ".join(filter(None, (subject, VERBS[event][way], manner[way]))) for way in range(WAYS)]


def opposite(event):
    """The event in a clip that is played backwards."""
    return OPPOSITES.get(event, event)


def joined(patterns, *clauses):
    """Clauses put together, way by way."""
    return [patterns[way].format(*(clause[way] for clause in clauses)) for way in range(WAYS)]


def placed(subject, x, y):
    """Where a thing is, in squares of eight columns from the left and eight rows from the top."""
    column, row = (min(int(share * 8), 7) for share in (x, y))
    return f"{subject} in column {COLUMNS[column]} of the {ROWS[row]} row"


class Questions:
    """The questions of a clip, and those of the clip played backwards. Order of choices and wording are drawn, so that neither
    tells the answer: `place` gives the answer's place among so many choices of a task, each equally often; backwards an answer
    stands in the same place, or in the other one of two."""

    def __init__(self, random, place):
        self.random, self.place = random, place
        self.asked, self.reversed = [], []

    def ask(self, task, wordings, answer, choices, reverse=opposite, swaps=False, rewordings=None):
        """`reverse`: a choice in the clip played backwards; `swaps`: the answer is then the other one of two;
        `rewordings`: the question's wordings then, if they are others."""
        choices = list(choices)
        self.random.shuffle(choices)
        assert answer in choices and len(set(choices)) == len(choices)
        choices.remove(answer)
        choices.insert(self.place(task, len(choices) + 1), answer)
        question = self.random.choice(wordings)
        self.asked.append({"question": question, "answer": answer, "choices": choices, "task": task})
        if swaps:
            answer, = (choice for choice in choices if choice != answer)
        self.reversed.append({
            "question": (rewordings or wordings)[wordings.index(question)], "answer": reverse(answer),
            "choices": [reverse(choice) for choice in choices], "task": task})

    def direction(self, the, answer, choices):
        self.ask("direction", (f"In which direction does {the} move?", f"Which way does {the} go?"), answer, choices)

    def turn(self, the, answer):
        self.ask("turn", (f"Which way does {the} turn?", f"In which direction does {the} rotate?"), answer, TURNS)

    def size(self, the, answer):
        self.ask("size", (f"Does {the} grow or shrink?", f"What happens to the size of {the}?"),
                 "it " + answer, ["it " + size for size in SIZES], lambda choice: "it " + opposite(choice[3:]))

    def speed(self, the, answer):
        self.ask("speed", (f"How does {the} move, slowly or quickly?", f"At which speed does {the} move?"),
                 answer, SPEEDS)

    def presence(self, answer):
        self.ask("appear", ("Does something appear or disappear?", "What happens in this clip?"),
                 "something " + answer, ["something " + presence for presence in PRESENCES],
                 lambda choice: "something " + opposite(choice[10:]))

    def which(self, verb, answer, choices):
        self.ask("which", (f"Which object {verb}?", f"What {verb}?"), answer, choices)

    def order(self, events, backwards):
        """`events`: what happens, in this order; asked is the first or the last. `backwards`: the same of the clip played
        backwards, each in its old place."""
        first = self.random.random() < 0.5
        wordings = ("What happens first?", "Which of the two happens first?") if first else (
            "What happens last?", "Which of the two happens second?")
        self.ask("order", wordings, events[0 if first else 1], events, dict(zip(events, backwards)).get, swaps=True)

    def count(self, wordings, number, rewordings=None):
        self.ask("count", wordings, NUMBERS[number - 1], NUMBERS, rewordings=rewordings)

    def sound(self, wordings, answer, choices):
        self.ask("sound", wordings, answer, choices, lambda choice: choice)
