"""Writes small archives with Python's own tar writer: what the reader must agree with.

    python make_data.py

`gnu.tar` and `pax.tar` hold the same three samples (one with a name of 180 characters, one with a non-ASCII name) in GNU's
and in POSIX's form; `expected.json` lists each member's name, size and SHA-256.
"""

import hashlib
import io
import json
import pathlib
import struct
import tarfile
import zlib

HERE = pathlib.Path(__file__).parent


def png(red, green, blue):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes([0, red, green, blue]), 9)) + chunk(b"IEND", b""))


def main():
    long = "folder/" + "long_" * 35 + "name"
    files = {
        "red.png": png(255, 0, 0),
        "red.json": json.dumps({"image_id": 7, "captions": [" a red dot ", "", "red"], "label": "colour"}).encode(),
        long + ".png": png(0, 255, 0),
        long + ".txt": b"a green dot\n\ngreen\n",
        "blau_ü.webp": png(0, 0, 255),
        "blau_ü.json": json.dumps({"caption": "ein blauer Punkt: ü"}, ensure_ascii=False).encode(),
    }
    for name, form in [("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)]:
        with tarfile.open(HERE / f"{name}.tar", "w", format=form) as tar:
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for path, data in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    expected = [{"name": n, "size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()]
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


main()
