"""What happens in each clip: places of all objects in all frames, sentences, questions and the sound.

Nothing is drawn here; a clip is a dictionary of numbers and words that follows from the seed alone. Lengths are shares of
the frame's side, times shares of the clip.

No single frame may answer what only time can:

- Direction, speed, which moves, order of movements. Along the axis of movement a place is uniform over the whole range
  at every instant, whatever the answer: what reaches one edge goes on from the opposite one. What rests is placed the same
  way. In each clip all movements share an axis and each object has a lane of its own. Lanes show the axis, and so the
  choices are all four directions only where one object is alone; else they are the two along the axis.
- Turning: the angle is uniform over the circle at every instant, and so is the angle of what does not turn.
- Growing and shrinking, appearing and disappearing, the order of two showings: every clip is as likely as its own
  reverse, so that the middle frame, a frame at an unknown time and the bag of all frames tell nothing. The first and the
  last frame do tell of sizes and numbers, since there is no other way to grow or to appear.
- Sound: the object that is heard is drawn among the four choices, independently of what is seen.

Straight paths are the exception, for training alone: nothing goes on from the opposite edge, what reaches an edge rests there.
Late and early places then differ the way a thing moves, which is far easier to learn from, and a single place hints at it.
"""

import colorsys
import math
import random as randomness

from ending import EX_DATA, Failure
from .grammar import (AXES, DIRECTIONS, NUMBERS, PRESENCES, SIZES, SPEEDS, THEN, TURNS, WHILE, Questions, joined, opposite,
                      placed, sentences)
from .sounds import Sounds

# Shares of the kinds of clips.
KINDS = {"move": 20, "which": 14, "then": 16, "shown": 6, "mixed": 6, "turn": 9, "size": 9, "appear": 10, "count": 10}

MEDIUM, SLOW, QUICK = (0.16, 0.28), (0.09, 0.13), (0.32, 0.42)  # sides a second
SHORTEST, LONGEST = 2.0, 4.0  # seconds
TURN_SHOWS = 0.25  # least change of a picture by turning it
SPREAD = {"left": -1, "right": 1, "up": -1, "down": 1, "clockwise": 1, "counterclockwise": -1}


class Deck:
    """Options in a random order, all of them before one comes again."""

    def __init__(self, random, options):
        self.random, self.options, self.left = random, list(options), []

    def draw(self, fits=lambda option: True):
        """The next option that fits; the others stay."""
        for _ in range(2):
            for index, option in enumerate(self.left):
                if fits(option):
                    return self.left.pop(index)
            fresh = self.options[:]
            self.random.shuffle(fresh)
            self.left += fresh
        raise Failure(EX_DATA, "the cut-outs are too few for these clips: run scripts/fetch-data --force cut-outs")


class Actor:
    """An object of a clip and where it is in each frame."""

    def __init__(self, thing, picture, shape, side):
        self.thing, self.picture = thing, picture
        self.shape, self.side = shape, side
        self.places = []

    @property
    def width(self):
        return self.shape[0] * self.side

    @property
    def height(self):
        return self.shape[1] * self.side

    @property
    def diagonal(self):
        """The extent in any direction, however it is turned."""
        return math.hypot(self.width, self.height)


class Planner:
    """Plans the clips of a split, one after another."""

    def __init__(self, objects, split, seed, fps, voices, stream="", straight=False):
        self.random = randomness.Random(f"moving stamps/{seed}/{split}{stream}")
        self.objects, self.split, self.fps, self.straight = objects, split, fps, straight
        self.things = Deck(self.random, objects.things[split])
        self.sounds = Sounds(objects, split, self.random, voices)
        self.decks = {}
        self.choosing = randomness.Random(f"moving stamps/choices/{seed}/{split}")
        self.answer_places = {}

    def deck(self, name, options):
        if name not in self.decks:
            self.decks[name] = Deck(self.random, options)
        return self.decks[name].draw()

    def answer_place(self, task, choices):
        """Where the answer stands among so many choices."""
        deck = self.answer_places.setdefault((task, choices), Deck(self.choosing, range(choices)))
        return deck.draw()

    def clips(self, count):
        kinds = [kind for kind, share in KINDS.items() for _ in range(share)]
        for number in range(count):
            kind = self.deck("kind", kinds)
            scene = Scene(self, kind)
            getattr(scene, kind)()
            yield scene.plan(f"{self.split}-{number:06d}", f"clips/{self.split}/{number:06d}.mp4")

    def stills(self, count):
        """Pictures of one frame and without sound, of which is told where things are."""
        for number in range(count):
            scene = Scene(self, "place", frames=1)
            scene.place()
            yield scene.plan(f"{self.split}-{number:06d}", f"stills/{self.split}/{number:06d}.jpg", is_silent=True)


class Scene:
    """One clip in the making."""

    def __init__(self, planner, kind, frames=None):
        self.planner, self.kind = planner, kind
        self.random, self.deck = planner.random, planner.deck
        shortest, longest = (round(seconds * planner.fps) for seconds in (SHORTEST, LONGEST))
        self.frames = frames or self.random.randint(shortest, max(shortest, longest))
        self.seconds = self.frames / planner.fps
        self.times = [(frame + 0.5) / self.frames for frame in range(self.frames)]
        self.actors = []
        self.questions = Questions(self.random, planner.answer_place)
        self.captions = self.reversed = None

    # --- Actors and places

    def cast(self, number, sides, turns=False):
        """So many different objects with nothing in common in their names; largest extent drawn from `sides`."""
        chosen = []
        for _ in range(number):
            words = frozenset().union(*(thing.words for thing in chosen))
            chosen.append(self.planner.things.draw(
                lambda thing: not thing.words & words and self.pictures(thing, turns)))
        return [self.actor(thing, self.random.uniform(*sides), turns) for thing in chosen]

    def pictures(self, thing, turns):
        objects = self.planner.objects
        fitting = [key for key in thing.pictures if objects.look(key)[2] < 0.97 and min(objects.look(key)[0]) > 0.3]
        return [key for key in fitting if not turns or objects.turn_shows(key) > TURN_SHOWS]

    def actor(self, thing, side, turns=False, picture=None):
        picture = picture or self.random.choice(self.pictures(thing, turns))
        actor = Actor(thing, picture, self.planner.objects.look(picture)[0], side)
        self.actors.append(actor)
        return actor

    def inside(self, extent):
        """A place along one axis at which all of `extent` is in the frame."""
        return self.random.uniform(extent / 2, 1 - extent / 2)

    def lanes(self, extents):
        """Places across the axis of movement, in random order from edge to edge, that keep objects apart."""
        order = list(range(len(extents)))
        self.random.shuffle(order)
        free = 1 - sum(extents)
        cuts = sorted(self.random.uniform(0, free) for _ in extents)
        places, used = [0.0] * len(extents), 0.0
        for cut, index in zip(cuts, order):
            places[index] = cut + used + extents[index] / 2
            used += extents[index]
        return places

    def rest(self, actor, x, y, visible=lambda time: True, angle=0.0):
        actor.places = [(x, y, actor.side, angle) if visible(time) else None for time in self.times]

    def act(self, actor, event, across, window=(0.0, 1.0), speed=MEDIUM, turned=False):
        """Moves or turns within a window of time along the axis of the scene; `across` is the actor's lane."""
        horizontal = self.axis == "horizontal"
        extent = actor.diagonal if turned else actor.width if horizontal else actor.height
        span = 1 - extent
        start, angle = self.random.random(), self.random.uniform(0, 360) if turned else 0.0
        path, turn = 0.0, 0.0
        if event in DIRECTIONS:
            path = SPREAD[event] * self.random.uniform(*speed) * self.seconds * (window[1] - window[0]) / span
        elif event in TURNS:
            turn = SPREAD[event] * self.random.uniform(100, 170)
        if self.planner.straight:
            length = min(abs(path), 1.0)
            start = start * (1 - length) + (length if path < 0 else 0)
        # The start is uniform, and so is every later place, since it wraps around unless paths are straight.
        for time in self.times:
            done = min(max((time - window[0]) / (window[1] - window[0]), 0), 1)
            place = start + path * done
            along = extent / 2 + (min(max(place, 0.0), 1.0) if self.planner.straight else place % 1.0) * span
            x, y = (along, across) if horizontal else (across, along)
            actor.places.append((x, y, actor.side, (angle + turn * done) % 360))

    def across(self, actors, turned=False):
        """Draws the lanes of all actors."""
        if turned:
            return self.lanes([actor.diagonal for actor in actors])
        horizontal = self.axis == "horizontal"
        return self.lanes([actor.height if horizontal else actor.width for actor in actors])

    def scatter(self, actors):
        """Places that keep all of them apart, in the cells of a grid of three by three."""
        cells = [(column, row) for column in range(3) for row in range(3)]
        self.random.shuffle(cells)
        for actor, (column, row) in zip(actors, cells):
            yield (column + 0.5 + self.slack(actor.width)) / 3, (row + 0.5 + self.slack(actor.height)) / 3

    def slack(self, extent):
        free = max(0.0, 1 - 3 * extent) / 2
        return self.random.uniform(-free, free)

    def tell(self, sentences):
        """Sets what is told of the clip, and of the clip played backwards. `sentences` tells it by two functions: what an
        event is, and the order of events."""
        self.captions = sentences(lambda event: event, lambda clauses: clauses)
        self.reversed = sentences(opposite, lambda clauses: clauses[::-1])

    # --- Kinds of clips

    def move(self):
        """One object moves, alone."""
        speed, event = self.deck("move", [(s, d) for s in (*SPEEDS, None, None) for d in DIRECTIONS])
        self.axis = axis_of(event)
        actor, = self.cast(1, (0.24, 0.36))
        pace = {"slowly": SLOW, "quickly": QUICK, None: MEDIUM}[speed]
        self.act(actor, event, self.across([actor])[0], speed=pace)
        self.tell(lambda seen, _: sentences(actor.thing.one, seen(event), speed))
        self.ask_event(actor.thing, event)
        if speed:
            self.questions.speed(actor.thing.the, speed)

    def which(self):
        """Two or three objects, one of which moves or turns."""
        event, number = self.deck("which", [(e, n) for e in (*DIRECTIONS, *DIRECTIONS, *TURNS) for n in (2, 2, 3)])
        turns = event in TURNS
        self.axis = axis_of(event) or self.random.choice(("horizontal", "vertical"))
        actors = self.cast(number, (0.2, 0.23 if turns else 0.28), turns)
        for index, (actor, lane) in enumerate(zip(actors, self.across(actors, turns))):
            self.act(actor, event if index == 0 else None, lane, turned=turns)
        things = [actor.thing for actor in actors]

        def told(seen, _):
            doing = sentences(things[0].one, seen(event))
            if number > 2:
                return doing
            mixed = joined(WHILE, doing, sentences(things[1].one, "stays"))
            return [doing[0], mixed[0], mixed[2]]

        self.tell(told)
        self.questions.which("turns" if turns else "moves", things[0].the, [thing.the for thing in things])
        self.ask_event(things[0], event)

    def then(self):
        """One object moves or turns, then another."""
        pairs = [(a, b) for axis in AXES.values() for a in (*axis, *TURNS) for b in (*axis, *TURNS)
                 if not (a in TURNS and b in TURNS)]
        events = self.deck("then", pairs)
        self.axis = axis_of(events[0]) or axis_of(events[1])
        turned = any(event in TURNS for event in events)
        actors = self.cast(2, (0.22, 0.32), turned)
        before, after = self.random.uniform(0.02, 0.08), self.random.uniform(0.02, 0.08)
        length = self.random.uniform(0.34, 0.4)
        windows = ((before, before + length), (1 - after - length, 1 - after))
        lanes = self.across(actors, turned)
        for actor, event, window, lane in zip(actors, events, windows, lanes):
            self.act(actor, event, lane, window, speed=(0.22, 0.36), turned=turned)
        self.tell(lambda seen, order: joined(
            THEN, *order([sentences(actor.thing.one, seen(event)) for actor, event in zip(actors, events)])))
        self.questions.order(*([sentences(actor.thing.the, seen(event))[0] for actor, event in zip(actors, events)]
                               for seen in (str, opposite)))
        asked = self.random.randrange(2)
        self.ask_event(actors[asked].thing, events[asked])

    def ask_event(self, thing, event):
        if event in TURNS:
            self.questions.turn(thing.the, event)
        else:
            choices = DIRECTIONS if len(self.actors) == 1 else AXES[self.axis]
            self.questions.direction(thing.the, event, choices)

    def shown(self):
        """Two objects are shown one after the other; neither is there at the start, in the middle and at the end."""
        actors = self.cast(2, (0.28, 0.36))
        edges = [(self.random.uniform(0.05, 0.12), self.random.uniform(0.36, 0.46)) for _ in range(2)]
        windows = (edges[0], (1 - edges[1][1], 1 - edges[1][0]))
        for actor, (begin, end) in zip(actors, windows):
            self.rest(actor, self.inside(actor.width), self.inside(actor.height), lambda t: begin <= t < end)
        self.tell(lambda _, order: joined(THEN, *order([sentences(actor.thing.one, "comes and goes") for actor in actors])))
        showings = [actor.thing.the + " is shown" for actor in actors]
        self.questions.order(showings, showings)

    def mixed(self):
        """One object moves and another appears or disappears, in either order. No question about the order: the second
        object's presence in the middle frame would answer it."""
        first, event, presence = self.deck(
            "mixed", [(f, e, p) for f in (0, 1) for e in DIRECTIONS for p in PRESENCES])
        self.axis = axis_of(event)
        actors = self.cast(2, (0.24, 0.34))
        lanes = self.across(actors)
        early, late = (0.04, 0.46), (0.54, 0.96)
        self.act(actors[0], event, lanes[0], late if first else early, speed=(0.22, 0.36))
        moment = self.random.uniform(0.15, 0.35) + (0 if first else 0.5)
        self.act(actors[1], None, lanes[1])
        actors[1].places = [place if (time >= moment) == (presence == "appears") else None
                            for time, place in zip(self.times, actors[1].places)]
        happening = list(zip(actors, (event, presence)))[::-1 if first else 1]
        self.tell(lambda seen, order: joined(
            THEN, *order([sentences(actor.thing.one, seen(what)) for actor, what in happening])))
        self.ask_event(actors[0].thing, event)

    def turn(self):
        """One object turns."""
        event = self.deck("turn", TURNS)
        self.axis = "horizontal"
        actor, = self.cast(1, (0.34, 0.46), turns=True)
        self.act(actor, event, self.across([actor], turned=True)[0], turned=True)
        self.tell(lambda seen, _: sentences(actor.thing.one, seen(event)))
        self.ask_event(actor.thing, event)

    def size(self):
        """One object grows or shrinks."""
        event = self.deck("size", SIZES)
        actor, = self.cast(1, (1, 1))
        actor.side, factor = math.exp(self.random.uniform(math.log(0.22), math.log(0.75))), self.random.uniform(1.5, 1.9)
        larger, smaller = actor.side, actor.side / factor
        start, end = (smaller, larger) if event == "grows" else (larger, smaller)
        x, y = self.inside(actor.width), self.inside(actor.height)
        actor.places = [(x, y, start * (end / start) ** time, 0.0) for time in self.times]
        self.tell(lambda seen, _: sentences(actor.thing.one, seen(event)))
        self.questions.size(actor.thing.the, event)

    def appear(self):
        """Among one to four objects another appears, or one of two to five disappears."""
        event, others = self.deck("appear", [(e, n) for e in PRESENCES for n in (1, 2, 3, 4)])
        actors = self.cast(others + 1, (0.2, 0.29))
        moment = self.random.uniform(0.3, 0.7)
        for index, (actor, (x, y)) in enumerate(zip(actors, self.scatter(actors))):
            there = (lambda t: (t >= moment) == (event == "appears")) if index == 0 else (lambda t: True)
            self.rest(actor, x, y, there)

        def told(seen, _):
            happening = sentences(actors[0].thing.one, seen(event))
            if others > 1:
                return happening
            mixed = joined(WHILE, happening, sentences(actors[1].thing.one, "stays"))
            return [happening[0], mixed[0], mixed[2]]

        self.tell(told)
        self.questions.presence(event)

    def count(self):
        """One to four objects of a kind, beside up to two of another; all there, or appearing one after another."""
        number, others, gradual = self.deck(
            "count", [(n, o, g) for n in (1, 2, 3, 4) for o in (0, 1, 2) for g in (False, True)])
        first, *second = self.cast(2 if others else 1, (0.2, 0.29))
        counted = [first] + [self.copy(first) for _ in range(number - 1)]
        beside = second + [self.copy(second[0]) for _ in range(others - 1)]
        moments = [0.1 + 0.2 * place + self.random.uniform(0, 0.1) for place in sorted(self.random.sample(range(4), number))]
        places = self.scatter(counted + beside)
        for actor, moment, (x, y) in zip(counted, moments, places):
            self.rest(actor, x, y, lambda time: not gradual or time >= moment)
        for actor, (x, y) in zip(beside, places):
            self.rest(actor, x, y)
        thing, several = counted[0].thing, number > 1
        subject = f"{NUMBERS[number - 1]} {thing.many if several else thing.name}"
        if gradual:
            ways = {"appears": ("appear one after another", "come into view one by one", "show up, each after the other"),
                    "disappears": ("disappear one after another", "go out of view one by one",
                                   "vanish, each after the other")}
            self.tell(lambda seen, _: [f"{subject} {way}" for way in ways[seen("appears")]] if several
                      else sentences(thing.one, seen("appears")))
            asked, backwards = ([f"How many {thing.many} {verb}?" for verb in verbs]
                                for verbs in (("appear", "come into view"), ("disappear", "go out of view")))
            self.questions.count(asked, number, backwards)
        else:
            more = beside and f" and {NUMBERS[others - 1]} {beside[0].thing.many if others > 1 else beside[0].thing.name}"
            self.tell(lambda *_: [f"there {'are' if several else 'is'} {subject}", f"{subject}{more or ''}",
                                  f"{subject} {'stand' if several else 'stands'} still"])
            self.questions.count((f"How many {thing.many} are there?", f"How many {thing.many} can be seen?"), number)

    def place(self):
        """One to three objects anywhere, apart from each other: a still."""
        number = self.deck("place", (1, 1, 2, 3))
        self.axis = self.random.choice(("horizontal", "vertical"))
        actors = self.cast(number, (0.18, 0.42) if number == 1 else (0.16, 0.28))
        for actor, lane in zip(actors, self.across(actors)):
            self.act(actor, None, lane)
        self.captions = [placed(actor.thing.one, *actor.places[0][:2]) for actor in actors]

    def copy(self, actor):
        return self.actor(actor.thing, actor.side, picture=actor.picture)

    # --- The whole

    def plan(self, name, file, is_silent=False):
        """The clip as numbers and words."""
        sound = None if is_silent else self.planner.sounds.draw([actor.thing for actor in self.actors], self.questions)
        assert all(len(actor.places) == self.frames for actor in self.actors)
        return {
            "id": name, "file": file, "split": self.planner.split, "kind": self.kind,
            "frames": self.frames, "seconds": self.seconds,
            "captions": self.captions, "questions": self.questions.asked,
            "reversed": {"captions": self.reversed, "questions": self.questions.reversed},
            "background": self.background(), "sound": sound,
            "actors": [{
                "name": actor.thing.name, "picture": actor.picture, "shape": actor.shape,
                "places": [place and tuple(round(value, 4) for value in place) for place in actor.places],
            } for actor in self.actors],
        }

    def background(self):
        """Colours of a coarse grid that is drawn smooth: one colour, a gradient or soft blotches; none of them near to
        the mean colour of an object."""
        looks = [self.planner.objects.look(actor.picture)[1] for actor in self.actors]
        best, contrast = None, -1.0
        for _ in range(20):
            kind = self.random.choice(("plain", "gradient", "blotches"))
            hue, pale = self.random.random(), self.random.uniform(0.1, 0.6)
            value = self.random.choice((self.random.uniform(0.15, 0.4), self.random.uniform(0.6, 1.0)))

            def colour(spread):
                rgb = colorsys.hsv_to_rgb(
                    (hue + self.random.uniform(-spread, spread) / 2) % 1, pale,
                    min(1.0, max(0.0, value + self.random.uniform(-spread, spread))))
                return tuple(round(255 * channel) for channel in rgb)

            side, spread = {"plain": (1, 0.0), "gradient": (2, 0.2), "blotches": (4, 0.12)}[kind]
            grid = [[colour(spread) for _ in range(side)] for _ in range(side)]
            flat = [cell for row in grid for cell in row]
            nearest = min(math.dist(cell, look) for cell in flat for look in looks)
            if nearest > contrast:
                best, contrast = grid, nearest
            if contrast > 90:
                break
        return best


def axis_of(event):
    """The axis of a movement; None of anything else."""
    return next((axis for axis, directions in AXES.items() if event in directions), None)
