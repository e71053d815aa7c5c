#!/usr/bin/env python3
"""Renders clips of moving stamps, whose truth is known: what moves where, what comes first, how many there are, what is
heard. Real H.264 files with AAC sound, so that the real decoder is in the path.

    $QFORMER_CACHE/data/moving-stamps/
        captions.jsonl         one line a clip, see below; read by the data format `captions-jsonl`
        tracks.jsonl           where each object is in each frame
        clips/train/000000.mp4 …   clips/val/000000.mp4 …
        made.json              settings, counts, versions

A line of captions.jsonl:

    {"id": "train-000123", "video": "clips/train/000123.mp4", "split": "train", "duration": 2.5,
     "captions": ["a bee moves left, then an apple turns clockwise", …],
     "questions": [{"question": "What happens first?", "answer": "the bee moves left",
                    "choices": ["the apple turns clockwise", "the bee moves left"], "task": "order"}, …],
     "category": "then", "objects": ["bee", "apple"], "sound": {"use": "word", "name": "owl"}}

    id         unique in the set
    video      the clip, relative to the file's folder
    split      train or val
    duration   seconds: frames over frames a second
    captions   three ways to tell it
    questions  one to three; `answer` is one of `choices`, which stand in random order. Tasks: direction (four choices
               where one object is alone, else the two along the axis of movement), order, count, appear, which, size,
               turn, speed, sound (which sound is heard, which word or which language is spoken). The number of
               choices differs: chance is the mean of one over it
    category   the kind of clip: move, which, then, shown, mixed, turn, size, appear, count
    objects    names of the kinds of objects shown
    sound      null without an audio track, else what is heard and why: `use` is word, sound or language (a question asks
               for it, and what is shown does not tell) or shown (it is the sound or the name of the first object)

A line of tracks.jsonl:

    {"id": …, "fps": 8, "objects": [{"name": "bee", "picture": "animals_insects_bee", "shape": [w, h],
                                     "places": [[x, y, side, degrees], null, …]}]}

    One entry a frame, null where the object is not shown. x, y: the centre, side: the longer side, as shares of the
    frame's side; shape: width and height over the longer side; degrees clockwise.

With --stills, pictures in the place of clips, of which is told where things are, for adapters that learn to see that
before they learn what moves:

    $QFORMER_CACHE/data/placed-stamps/
        captions.jsonl, tracks.jsonl, made.json
        stills/train/000000.jpg …   stills/val/000000.jpg …

    {"id": "train-000123", "image": "stills/train/000123.jpg", "split": "train", "category": "place",
     "captions": ["a bee in column three of the fifth row", …], "objects": ["bee", …]}

    Columns are eight from the left, rows eight from the top; one caption an object.

Objects. Stamps and emoji whose names fit into a sentence, as cut-outs (scripts/fetch-data cut-outs). What is held out is
held out of all sets alike, by the hash of the name (see fetch_data.py): validation clips show and sound only objects that
no training clip has. Backgrounds are drawn: one colour, a gradient, soft blotches.

What a single frame tells. moving_stamps/scenes.py says how places, sizes and times are drawn so that no single frame
answers a question about direction, order of movements or which object moves; `--check` measures it.

The same settings give the same captions, questions and frames, and with the same ffmpeg the same files.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from ending import EX_CANTCREAT, EX_USAGE, Failure, exit_code, locked

FORMAT = 2  # raise it when clips change: a finished set is then made anew


def say(text):
    print(text, file=sys.stderr, flush=True)


# --- Planning --------------------------------------------------------------------------------------------------------


def objects_of(cache):
    from moving_stamps.objects import Objects

    return Objects(cache / "data/cut-outs")


def is_still(settings):
    return "stills" in settings


def counts_of(settings):
    """How many clips or stills of each split."""
    return settings["stills" if is_still(settings) else "clips"]


def plans_of(objects, settings):
    from moving_stamps.scenes import Planner

    plans = []
    for split, count in counts_of(settings).items():
        if is_still(settings):
            plans += Planner(objects, split, settings["seed"], 1, False, stream="/stills").stills(count)
        else:
            plans += Planner(objects, split, settings["seed"], settings["fps"], settings["speech"] == "all",
                             straight="paths" in settings).clips(count)
    return plans


def caption_line(plan):
    objects = list(dict.fromkeys(actor["name"] for actor in plan["actors"]))
    if plan["kind"] == "place":
        return {"id": plan["id"], "image": plan["file"], "split": plan["split"], "category": plan["kind"],
                "captions": plan["captions"], "objects": objects}
    sound = plan["sound"]
    return {
        "id": plan["id"], "video": plan["file"], "split": plan["split"], "duration": plan["seconds"],
        "captions": plan["captions"], "questions": plan["questions"], "reversed": plan["reversed"], "category": plan["kind"],
        "objects": objects,
        "sound": sound and {"use": sound["use"], "name": sound["name"]},
    }


def track_line(plan, fps):
    return {"id": plan["id"], "fps": fps, "objects": plan["actors"]}


# --- Making ----------------------------------------------------------------------------------------------------------

shared = {}  # what a worker needs, inherited


def encode_batch(numbers):
    from moving_stamps.render import encode

    plans = [shared["plans"][number] for number in numbers]
    return encode(plans, shared["objects"], shared["size"], shared["fps"], shared["folder"])


def still_batch(numbers):
    from moving_stamps.render import write_still

    for number in numbers:
        plan = shared["plans"][number]
        write_still(plan, shared["objects"], shared["size"], shared["folder"] / plan["file"])
    return len(numbers)


def make_all(plans, objects, settings, folder, jobs):
    """Encodes the clips, or draws the stills, that are not there yet."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from moving_stamps.render import batch_size
    from moving_stamps.scenes import LONGEST

    missing = [number for number, plan in enumerate(plans) if not (folder / plan["file"]).exists()]
    if len(missing) < len(plans):
        say(f"  {len(plans) - len(missing)} are there already")
    shared.update(plans=plans, objects=objects, size=settings["size"], fps=settings.get("fps"), folder=folder)
    start = shown = time.monotonic()
    size, done = 64 if is_still(settings) else batch_size(settings["size"], settings["fps"], LONGEST), 0
    batches = [missing[first:first + size] for first in range(0, len(missing), size)]
    # An interruption is for this process; the workers end with the batch they are at.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork"), initializer=signal.signal,
                               initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        for count in pool.map(still_batch if is_still(settings) else encode_batch, batches):
            done += count
            now = time.monotonic()
            if now - shown > 10 or done == len(missing):
                shown = now
                left = (now - start) / done * (len(missing) - done)
                say(f"  {done} of {len(missing)}, {left:.0f} s left")
    finally:
        pool.shutdown(cancel_futures=True)


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def facts_of(plans, folder):
    """What made.json and the report say of each split."""
    facts = {}
    for split in dict.fromkeys(plan["split"] for plan in plans):
        part = [plan for plan in plans if plan["split"] == split]
        facts[split] = {
            "bytes": sum((folder / plan["file"]).stat().st_size for plan in part),
            "objects": len({actor["name"] for plan in part for actor in plan["actors"]}),
        }
        if part[0]["kind"] == "place":
            facts[split]["stills"] = len(part)
            continue
        facts[split] |= {
            "clips": len(part),
            "seconds": round(sum(plan["seconds"] for plan in part), 3),
            "without_sound": sum(plan["sound"] is None for plan in part),
            "questions": dict(sorted(Counter(q["task"] for plan in part for q in plan["questions"]).items())),
        }
    return facts


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def finished(output, settings):
    """The marker of a whole set with these settings, or None."""
    marker = read_json(output / "made.json")
    if not isinstance(marker, dict) or marker.get("settings") != settings:
        return None
    parent, ending = ("stills", ".jpg") if is_still(settings) else ("clips", ".mp4")
    for split, count in counts_of(settings).items():
        folder = output / parent / split
        if not folder.is_dir() or sum(name.endswith(ending) for name in os.listdir(folder)) != count:
            return None
    return marker if all((output / name).exists() for name in ("captions.jsonl", "tracks.jsonl")) else None


def make(cache, output, settings, jobs, force):
    from moving_stamps.render import require_ffmpeg

    if not force and (marker := finished(output, settings)):
        say(f"{output.name}: already there, {output}")
        return marker
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / "made.json").exists())):
        raise Failure(EX_CANTCREAT, f"{output}: is there and was not made by this command; name another --output")
    if not is_still(settings):
        require_ffmpeg(settings["speech"] == "all")
    start = time.monotonic()
    say(f"{output.name}: making {output}")
    objects = objects_of(cache)
    partial = output.with_name(f".{output.name}.partial")
    if force or read_json(partial / "settings.json") != settings:
        shutil.rmtree(partial, ignore_errors=True)
    for split in counts_of(settings):
        (partial / ("stills" if is_still(settings) else "clips") / split).mkdir(parents=True, exist_ok=True)
    (partial / "settings.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    plans = plans_of(objects, settings)
    say(f"  {len(plans)} {'stills' if is_still(settings) else 'clips'} planned")
    make_all(plans, objects, settings, partial, jobs)
    write_lines(partial / "captions.jsonl", map(caption_line, plans))
    write_lines(partial / "tracks.jsonl", (track_line(plan, settings.get("fps")) for plan in plans))
    marker = {"settings": settings, "licence": "GPL-2.0 and OFL-1.1, as the pictures and recordings inside",
              **facts_of(plans, partial)}
    (partial / "made.json").write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    (partial / "settings.json").unlink()
    old = output.with_name(f".{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        os.replace(output, old)
    os.replace(partial, output)
    shutil.rmtree(old, ignore_errors=True)
    say(f"{output.name}: done in {time.monotonic() - start:.0f} s")
    return marker


def report(output, marker):
    print(output)
    for split in counts_of(marker["settings"]):
        facts = marker[split]
        if is_still(marker["settings"]):
            print(f"{split}  {facts['stills']} stills, {facts['bytes'] / 1e6:.1f} MB, {facts['objects']} objects")
            continue
        tasks = ", ".join(f"{task} {count}" for task, count in facts["questions"].items())
        print(f"{split}  {facts['clips']} clips, {facts['seconds']:.0f} s, {facts['bytes'] / 1e6:.1f} MB, "
              f"{facts['objects']} objects, {facts['without_sound']} without sound\n{split}  questions: {tasks}")


# --- Looking and checking --------------------------------------------------------------------------------------------


def preview(output, size, path):
    """A sheet of clips, the first two of each kind from the last split, eight frames of each, with what is said of them."""
    from PIL import Image, ImageDraw, ImageFont

    from moving_stamps.render import decoded

    lines = [json.loads(line) for line in (output / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["split"] == lines[-1]["split"]]
    kinds = sorted({line["category"] for line in lines})
    chosen = [line for kind in kinds for line in [line for line in lines if line["category"] == kind][:2]]
    side, text, font = 112, 34, ImageFont.load_default(12)
    sheet = Image.new("RGB", (8 * (side + 4) + 4, len(chosen) * (side + text + 6) + 4), "white")
    draw = ImageDraw.Draw(sheet)
    for row, line in enumerate(chosen):
        top = 4 + row * (side + text + 6)
        asked = "   ".join(f"{q['question']} {q['answer']}" for q in line["questions"])
        heard = "no sound" if line["sound"] is None else f"{line['sound']['use']}: {line['sound']['name']}"
        draw.text((4, top), f"{line['id']}  {line['captions'][0]}  [{line['duration']} s, {heard}]", "black", font)
        draw.text((4, top + 15), asked, "#555555", font)
        times = [(index + 0.5) / 8 for index in range(8)]
        for column, frame in enumerate(decoded(output / line["video"], size, times)):
            sheet.paste(frame.resize((side, side)), (4 + column * (side + 4), top + text))
    partial = path.with_name("." + path.name)
    sheet.save(partial, "PNG")
    os.replace(partial, path)


def check(cache, settings):
    """Prints what can be answered without time; tells whether something leaks."""
    from moving_stamps.leaks import BLIND, measure, sound_facts

    plans = plans_of(objects_of(cache), settings)
    names = {split: {actor["name"].lower() for plan in plans if plan["split"] == split for actor in plan["actors"]}
             | {plan["sound"]["name"].lower() for plan in plans if plan["split"] == split and plan["sound"]}
             for split in settings["clips"]}
    print(f"objects seen or heard in both splits: {len(names['train'] & names['val'])}")
    leaks = len(names["train"] & names["val"])
    print(f"{'task':20}{'view':10}{'n':>6}{'chance':>8}{'ridge':>8}{'15-NN':>8}")
    untold = dict.fromkeys(BLIND)
    for task, view, count, chance, ridge, near, blind, leak in measure(plans):
        untold.pop(task, None)
        leaks += leak
        note = "  LEAK" if leak else "  at chance" if blind else ""
        print(f"{task:20}{view:10}{count:6}{chance:8.3f}{ridge:8.3f}{near:8.3f}{note}", flush=True)
    if untold:
        print(f"too few questions to tell: {', '.join(untold)}")
    count, places, shown, others = sound_facts(plans)
    print(f"sound: {count} questions, the answer stands first to fourth {places} times; "
          f"an object shown is the answer {shown} times, one of the three others {others} times")
    return leaks == 0


# --- The command -----------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(EX_USAGE, f"error: {message}; see {self.prog} --help\n")


def parsed():
    parser = Parser(
        prog="scripts/make-moving-stamps", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Renders clips of moving stamps with sound, captions and questions whose truth is known, into\n"
                    "$QFORMER_CACHE/data/moving-stamps (default ~/.cache/swift-qformer/data/moving-stamps). Needs\n"
                    "scripts/setup and scripts/fetch-data cut-outs; about four minutes on two free cores, 75 MB. What\n"
                    "is there is left alone; what was interrupted goes on.",
        epilog="examples:\n"
               "  scripts/make-moving-stamps\n"
               "  scripts/make-moving-stamps --stills 6000 600\n"
               "  scripts/make-moving-stamps --straight --seed 3 --clips 3000 1\n"
               "  scripts/make-moving-stamps --preview sheet.png\n"
               "  scripts/make-moving-stamps --clips 200 50 --seed 3 --output few --size 112\n"
               "  scripts/make-moving-stamps --check --clips 20000 5000\n\n"
               "Exit codes: 0 done, 1 --check found a leak, 64 usage, 65 a file is not what it should be, 69 something\n"
               "needed cannot be had, 73 cannot write.")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="where the data set goes")
    counted = parser.add_mutually_exclusive_group()
    counted.add_argument("--clips", metavar="N", type=int, nargs="+", default=[3000, 600],
                         help="clips of train and val, or one number for both (default: 3000 600)")
    counted.add_argument("--stills", metavar="N", type=int, nargs="+",
                         help="in the place of clips so many pictures, told where things are, into data/placed-stamps; "
                              "--fps and --speech do not matter to them")
    parser.add_argument("--seed", type=int, default=1, help="everything follows from it (default: 1)")
    parser.add_argument("--size", type=int, default=224, help="side of the square frames in pixels, even (default: 224)")
    parser.add_argument("--fps", type=int, default=8, help="frames a second (default: 8)")
    parser.add_argument("--speech", choices=("all", "recorded"), default="all",
                        help="words of recordings and of ffmpeg's flite (all, the default), or of recordings alone")
    parser.add_argument("--straight", action="store_true",
                        help="what moves stops at the edges, in the place of going on from the opposite one, into "
                             "data/moving-stamps-straight: easier to learn from, but places hint at answers; for training alone")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="clips encoded at once (default: all cores)")
    parser.add_argument("--preview", metavar="PNG", type=Path, help="writes a sheet of some clips afterwards")
    parser.add_argument("--check", action="store_true",
                        help="renders nothing; measures what a single frame of these clips tells")
    parser.add_argument("--force", action="store_true", help="renders again what is already there")
    arguments = parser.parse_args()

    for option, counts in (("--clips", arguments.clips), ("--stills", arguments.stills)):
        if counts and (len(counts) > 2 or min(counts) < 1 or max(counts) > 1_000_000):
            parser.error(f"{option} takes one or two numbers from 1 to 1000000, not {' '.join(map(str, counts))}")
    if arguments.stills and (arguments.check or arguments.preview):
        parser.error("--check and --preview are for clips, not for --stills")
    if arguments.straight and (arguments.check or arguments.stills):
        parser.error("--straight is for clips that are rendered, not for --check and --stills")
    if not 64 <= arguments.size <= 1024 or arguments.size % 2:
        parser.error(f"--size is an even number from 64 to 1024, not {arguments.size}")
    if not 4 <= arguments.fps <= 60:
        parser.error(f"--fps is from 4 to 60, not {arguments.fps}")
    if arguments.jobs < 1:
        parser.error(f"--jobs is at least 1, not {arguments.jobs}")
    return arguments


def main():
    arguments = parsed()
    cache = Path(os.environ.get("QFORMER_CACHE") or Path.home() / ".cache/swift-qformer").expanduser().absolute()
    name = "placed-stamps" if arguments.stills else "moving-stamps-straight" if arguments.straight else "moving-stamps"
    output = (arguments.output or cache / "data" / name).expanduser().absolute()
    settings = {"format": FORMAT, "seed": arguments.seed, "size": arguments.size}
    if arguments.stills:
        settings["stills"] = {"train": arguments.stills[0], "val": arguments.stills[-1]}
    else:
        settings |= {"fps": arguments.fps, "speech": arguments.speech,
                     "clips": {"train": arguments.clips[0], "val": arguments.clips[-1]}}
        if arguments.straight:
            settings["paths"] = "straight"
    leaks = False

    def run():
        nonlocal leaks
        if arguments.check:
            leaks = not check(cache, settings)
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        with locked(output.with_name(f".{output.name}.lock"), "make-moving-stamps"):
            report(output, make(cache, output, settings, arguments.jobs, arguments.force))
        if arguments.preview:
            preview(output, settings["size"], arguments.preview.expanduser().absolute())
            print(arguments.preview)

    return exit_code(run, output) or int(leaks)


if __name__ == "__main__":
    sys.exit(main())
