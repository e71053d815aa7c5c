"""Reads the tensors of a CTranslate2 `model.bin`, version 6. The library itself is not needed.

    u32 version · string specification · u32 revision · u32 count
    for each tensor: string name · u8 rank · u32 dimensions · u8 type · u32 bytes · data
    u32 count of aliases · for each: string alias · string name

All numbers are little-endian; a string is a u16 length, its bytes and a zero that the length counts.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

# Numbers of element types, as CTranslate2 writes them.
TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


class Malformed(ValueError):
    """The file is no such file, or is cut off."""


class _Reader:
    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.place:
            raise Malformed(f"{count} bytes expected at {self.place}, found {len(self.data) - self.place}")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, kind: str) -> int:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def string(self) -> str:
        text = self.take(self.number("H"))
        if not text.endswith(b"\0"):
            raise Malformed(f"a string that ends with zero expected at {self.place - len(text)}")
        return text[:-1].decode("utf-8", "replace")


def read(path: Path, specification: str) -> tuple[dict, dict[str, str]]:
    """All tensors by name, and the aliases: second names of tensors. The file must hold the given specification."""
    import numpy

    reader = _Reader(path.read_bytes())
    version, found, _ = reader.number("I"), reader.string(), reader.number("I")
    if version != 6 or found != specification:
        raise Malformed(f"{specification} of version 6 expected, found {found} of version {version}")
    tensors = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        shape = tuple(reader.number("I") for _ in range(reader.number("B")))
        kind, size = reader.number("B"), reader.number("I")
        if kind not in TYPES or math.prod(shape) * numpy.dtype(TYPES[kind]).itemsize != size:
            raise Malformed(f"{name}: {size} bytes do not fit shape {list(shape)} and type {kind}")
        tensors[name] = numpy.frombuffer(reader.take(size), TYPES[kind]).reshape(shape)
    aliases = {}
    for _ in range(reader.number("I")):
        alias = reader.string()
        aliases[alias] = reader.string()
    if reader.place != len(reader.data):
        raise Malformed(f"{len(reader.data) - reader.place} bytes behind the end")
    return tensors, aliases
