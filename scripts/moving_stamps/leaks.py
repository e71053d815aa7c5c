"""Measures what can be answered without looking at time: from the question alone, from one frame, from the bag of frames.

The places, sizes, angles and presence of the objects asked about are given away, as no encoder could see them better. Two
classifiers learn from the training clips and answer for the validation clips: ridge regression on these values, their
squares and products, and the 15 nearest neighbours. What differs from chance by more than four standard errors where it
must not is a leak. Beside them stands the same ridge on how the values change over the clip, which has to do well:
otherwise the measurement would be blind.
"""

import math
import re

import numpy

from .grammar import AXES

VIEWS = ("no frame", "first", "middle", "last", "any", "bag", "change")

# The views that must be at chance, by task. The rest: see scenes.py; a count may be seen, and in the bag so may be the axis
# of a movement and its speed.
BLIND = {
    "direction": ("no frame", "first", "middle", "last", "any"),
    "left or right": ("no frame", "first", "middle", "last", "any", "bag"),
    "up or down": ("no frame", "first", "middle", "last", "any", "bag"),
    "turn": ("no frame", "first", "middle", "last", "any", "bag"),
    "which": ("no frame", "first", "middle", "last", "any"),
    "speed": ("no frame", "first", "middle", "last", "any"),
    "order of movements": ("no frame", "first", "middle", "last", "any", "bag"),
    "order of showings": ("no frame", "first", "middle", "last", "bag"),
    "size": ("no frame", "middle", "bag"),
    "appear": ("no frame", "middle", "bag"),
    "count": ("no frame",),
}


def labels_of(plan, question):
    """(name of the task here, the actors asked about, the right answer's number): nothing where there is nothing to learn
    from places, twice for a direction among four."""
    task, choices = question["task"], question["choices"]
    actors = {"the " + actor["name"]: actor for actor in plan["actors"]}
    if task in ("which", "order"):
        if len(choices) != 2:
            return
        named = [next(actor for name, actor in actors.items() if (choice + " ").startswith(name + " "))
                 for choice in choices]
        if task == "order":
            task = "order of showings" if plan["kind"] == "shown" else "order of movements"
        right = choices.index(question["answer"])
        # What is learnt is which comes first; what comes last is the other.
        yield task, named, 1 - right if re.search("last|second", question["question"]) else right
        return
    order = sorted(choices)
    if task in ("direction", "turn", "size", "speed"):
        asked = [actor for name, actor in actors.items() if name + " " in question["question"].replace("?", " ").replace(",", " ")]
        others = [actor for actor in plan["actors"] if actor not in asked]
        if task != "direction" or len(order) == 4:
            yield task, asked[:1], order.index(question["answer"])
        if task == "direction":
            axis = next(axis for axis in AXES.values() if question["answer"] in axis)
            yield " or ".join(axis), (asked + others + [None])[:2], axis.index(question["answer"])
    if task in ("appear", "count"):
        yield task, [], order.index(question["answer"])


def values(plan, asked, frame):
    """What a perfect eye sees in one frame: of each object asked about presence, place, log of size and angle; how many
    objects there are, and where they are to be counted how many of that kind."""
    seen = []
    for actor in asked:
        place = actor and actor["places"][frame]
        if place is None:
            seen += [0.0] * 6
        else:
            x, y, side, angle = place
            seen += [1.0, x, y, math.log(side), math.cos(math.radians(angle)), math.sin(math.radians(angle))]
    there = [actor for actor in plan["actors"] if actor["places"][frame]]
    return seen + [len(there), plan["kind"] == "count" and sum(a["name"] == plan["actors"][0]["name"] for a in there)]


def quadratic(rows):
    rows = numpy.asarray(rows, dtype=numpy.float64)
    products = [rows[:, i] * rows[:, j] for i in range(rows.shape[1]) for j in range(i, rows.shape[1])]
    return numpy.concatenate([rows, numpy.stack(products, 1)], 1)


def change(plan, asked):
    """The middle change of each value from frame to frame, in both halves of the clip, and when each object is there."""
    rows = numpy.array([values(plan, asked, frame) for frame in range(plan["frames"])])
    out = []
    half = plan["frames"] // 2
    for index, actor in enumerate(asked):
        angles = numpy.array([place[3] if place else 0.0 for place in (actor["places"] if actor else [None] * plan["frames"])])
        turned = (numpy.diff(angles) + 180) % 360 - 180
        for part in (slice(0, half - 1), slice(half, None)):
            steps = numpy.diff(rows[:, 6 * index:6 * index + 4], axis=0)[part]
            out += [*(numpy.median(steps, 0) * 30), *(numpy.abs(numpy.median(steps, 0)) * 30), numpy.median(turned[part]) / 8,
                    abs(numpy.median(turned[part])) / 8, rows[:, 6 * index][part].mean()]
    return out + [*(rows[-1, -2:] - rows[0, -2:]), *rows[-1, -2:]]


def features(plan, question, asked, view, random):
    frames = plan["frames"]
    if view == "no frame":
        words = question["question"].split()
        return [plan["seconds"], len(words), len(question["question"]), len(plan["questions"])]
    if view == "bag":
        return quadratic([values(plan, asked, frame) for frame in range(frames)]).mean(0)
    if view == "change":
        return change(plan, asked)
    frame = {"first": 0, "middle": frames // 2, "last": frames - 1}.get(view)
    if frame is None:
        frame = int(random.integers(frames))
        return values(plan, asked, frame) + [(frame + 0.5) / frames]
    return values(plan, asked, frame)


def standardised(train, test):
    mean, spread = train.mean(0), train.std(0)
    keep = spread > 1e-9
    return (train[:, keep] - mean[keep]) / spread[keep], (test[:, keep] - mean[keep]) / spread[keep]


def ridge_accuracy(train, labels, test, truth, products):
    if products:
        train, test = quadratic(train), quadratic(test)
    train, test = standardised(train, test)
    train, test = (numpy.concatenate([part, numpy.ones((len(part), 1))], 1) for part in (train, test))
    targets = numpy.eye(labels.max() + 1)[labels]
    weights = numpy.linalg.solve(train.T @ train + 0.01 * len(train) * numpy.eye(train.shape[1]), train.T @ targets)
    return float(((test @ weights).argmax(1) == truth).mean())


def neighbour_accuracy(train, labels, test, truth, count=15):
    train, test = standardised(train, test)
    right = 0
    for row, label in zip(test, truth):
        nearest = numpy.argpartition(((train - row) ** 2).sum(1), min(count, len(train) - 1))[:count]
        right += numpy.bincount(labels[nearest], minlength=labels.max() + 1).argmax() == label
    return right / len(test)


def measure(plans):
    """Rows (task, view, questions, chance, ridge, neighbours, whether it must be at chance, whether it is a leak)."""
    random = numpy.random.default_rng(0)
    tasks = {}
    for plan in plans:
        for question in plan["questions"]:
            for task, asked, label in labels_of(plan, question):
                tasks.setdefault(task, {"train": [], "val": []})[plan["split"]].append((plan, question, asked, label))
    for task in BLIND:
        parts = tasks.get(task, {"train": [], "val": []})
        if min(map(len, parts.values())) < 30:
            continue
        labels, truth = (numpy.array([sample[3] for sample in parts[split]]) for split in ("train", "val"))
        chance = numpy.bincount(truth).max() / len(truth)
        for view in VIEWS:
            train, test = (numpy.array([features(plan, question, asked, view, random)
                                        for plan, question, asked, _ in parts[split]], dtype=numpy.float64)
                           for split in ("train", "val"))
            ridge = ridge_accuracy(train, labels, test, truth, products=view not in ("bag", "change"))
            near = neighbour_accuracy(train, labels, test, truth)
            blind = view in BLIND[task]
            error = math.sqrt(chance * (1 - chance) / len(truth))
            yield task, view, len(truth), chance, ridge, near, blind, blind and max(ridge, near) > chance + 4 * error


def sound_facts(plans):
    """Of the questions about sound: how many, how often the answer stands first to fourth, how often an object that is
    shown is the answer and how often it is one of the three other choices."""
    places, shown, others, count = [0] * 4, 0, 0, 0
    for plan in plans:
        names = {actor["name"] for actor in plan["actors"]}
        for question in plan["questions"]:
            if question["task"] != "sound":
                continue
            count += 1
            places[question["choices"].index(question["answer"])] += 1
            bare = {choice: choice.removeprefix("an ").removeprefix("a ") for choice in question["choices"]}
            shown += bare[question["answer"]] in names
            others += sum(bare[choice] in names for choice in bare if choice != question["answer"])
    return count, places, shown, others
