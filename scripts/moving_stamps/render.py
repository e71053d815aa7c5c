"""Draws the frames of a planned clip and has ffmpeg encode them."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ending import EX_UNAVAILABLE, Failure

SOUND_RATE = 16000


def require_ffmpeg(voices):
    """The ffmpeg command, checked for what is used of it."""
    if not shutil.which("ffmpeg"):
        raise Failure(EX_UNAVAILABLE, "the command ffmpeg is missing: run scripts/setup")
    for option, wanted in (("-encoders", ["libx264", "aac"]), ("-filters", ["flite"] if voices else [])):
        listed = subprocess.run(["ffmpeg", "-hide_banner", option], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        for name in wanted:
            if not re.search(rf"^\s*\S+\s+{name}\s", listed.stdout, re.MULTILINE):
                hint = "; --speech recorded does without it" if name == "flite" else ""
                raise Failure(EX_UNAVAILABLE, f"this ffmpeg has no {name}; Debian's has it{hint}")


def background(grid, size):
    """Colours of a coarse grid, drawn smooth: size x size, RGB."""
    from PIL import Image

    coarse = Image.new("RGB", (len(grid[0]), len(grid)))
    coarse.putdata([tuple(cell) for row in grid for cell in row])
    return coarse.resize((size, size), Image.Resampling.BICUBIC)


def frames(plan, objects, size):
    """The frames of a clip as images."""
    from PIL import Image

    ground = background(plan["background"], size)
    sprites = {}
    for index in range(plan["frames"]):
        frame = ground.copy()
        for number, actor in enumerate(plan["actors"]):
            place = actor["places"][index]
            if place is None:
                continue
            x, y, side, angle = place
            wanted = tuple(max(2, round(share * side * size)) for share in actor["shape"])
            key = (number, wanted, angle)
            if key not in sprites:
                sprite = objects.picture(actor["picture"]).resize(wanted, Image.Resampling.LANCZOS)
                # Pillow turns against the clock; the angle here grows with it.
                sprites[key] = sprite.rotate(-angle, Image.Resampling.BICUBIC, expand=True) if angle else sprite
            sprite = sprites[key]
            frame.paste(sprite, (round(x * size - sprite.width / 2), round(y * size - sprite.height / 2)), sprite)
        yield frame


def sound_input(sound, data, file):
    """ffmpeg's arguments that read a clip's sound; a recording is put into `file`."""
    if "file" not in sound:
        return ["-f", "lavfi", "-i", f"flite=text='{sound['text']}':voice={sound['voice']}"]
    file.write_bytes(data[sound["file"]])
    return ["-i", str(file)]


def sound_output(sound, seconds):
    """ffmpeg's arguments that lay a sound under a clip: 16 kHz, one channel, level, as long as the clip."""
    chain = [f"aresample={SOUND_RATE}", "aformat=channel_layouts=mono", "dynaudnorm=f=150:g=9:p=0.7:m=8",
             f"adelay={round(sound['start'] * 1000)}", "apad", f"atrim=0:{seconds}",
             f"afade=t=out:st={max(0, seconds - 0.1)}:d=0.1"]
    return ["-af", ",".join(chain), "-c:a", "aac", "-b:a", "40k", "-ar", str(SOUND_RATE), "-ac", "1"]


def batch_size(size, fps, longest):
    """How many clips one ffmpeg encodes: its start costs as much as a small clip, but their frames lie on disk."""
    return max(1, min(8, 64_000_000 // (size * size * 3 * round(fps * longest))))


def encode(plans, objects, size, fps, folder):
    """Writes clips as MP4: H.264, 4:2:0, and AAC where there is a sound. One thread, nothing of the time or the machine
    inside: the same plan gives the same bytes, whatever is encoded beside it."""
    with tempfile.TemporaryDirectory(prefix="moving-stamps-") as temporary:
        inputs, outputs, count, partials = [], [], 0, []
        for number, plan in enumerate(plans):
            raw = Path(temporary) / f"{number}.ppm"
            with open(raw, "wb") as file:
                for frame in frames(plan, objects, size):
                    # Not headerless: ffmpeg takes a file whose first pixel is (73, 68, 51) for an ID3 tag and skips it.
                    file.write(b"P6\n%d %d\n255\n" % frame.size + frame.tobytes())
            inputs += ["-f", "ppm_pipe", "-framerate", str(fps), "-i", str(raw)]
            outputs += ["-map", f"{count}:v"]
            count += 1
            if plan["sound"]:
                inputs += sound_input(plan["sound"], objects.files, raw.with_suffix(".ogg"))
                outputs += ["-map", f"{count}:a", *sound_output(plan["sound"], plan["seconds"])]
                count += 1
            path = folder / plan["file"]
            partials.append((path.with_name("." + path.name + ".partial"), path))
            outputs += [
                "-c:v", "libx264", "-preset", "veryfast", "-crf", "21", "-pix_fmt", "yuv420p", "-threads", "1",
                "-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact",
                "-movflags", "+faststart", "-f", "mp4", str(partials[-1][0])]
        command = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-abort_on", "empty_output_stream",
                   "-filter_threads", "1", *inputs, *outputs]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True)
        if result.returncode != 0:
            for partial, _ in partials:
                partial.unlink(missing_ok=True)
            lines = result.stderr.decode(errors="replace").strip().splitlines()
            names = f"{plans[0]['id']} to {plans[-1]['id']}"
            raise Failure(EX_UNAVAILABLE, f"{names}: ffmpeg failed: {lines[-1] if lines else 'no message'}")
        for partial, path in partials:
            os.replace(partial, path)
    return len(plans)


def write_still(plan, objects, size, path):
    """Writes the one frame of a still as JPEG."""
    frame, = frames(plan, objects, size)
    partial = path.with_name("." + path.name + ".partial")
    frame.save(partial, "JPEG", quality=92)
    os.replace(partial, path)


def decoded(path, size, times):
    """Frames of a finished clip at these frame numbers, as ffmpeg decodes them."""
    from PIL import Image

    command = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24",
               "pipe:1"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    block = size * size * 3
    count = len(result.stdout) // block
    if result.returncode != 0 or count == 0:
        raise Failure(EX_UNAVAILABLE, f"{path}: ffmpeg cannot decode it")
    for time in times:
        index = min(int(time * count), count - 1)
        yield Image.frombytes("RGB", (size, size), result.stdout[index * block:(index + 1) * block])
