"""Ways in which files are damaged: by disks, transfers, editors, and people who mean harm."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

import numpy as np

# Where headers end; damage is more telling there than in the voxels.
HEADER = 400
NUMBERS = (
    "-1",
    "0",
    "1",
    "65536",
    "2147483647",
    "2147483648",
    "4294967296",
    "1e300",
    "-1e30",
    "1e-40",
    "nan",
    "inf",
    "",
)
EXTREMES = (
    *(struct.pack("<h", n) for n in (-1, 0, 1, 5, 255, 32767, -32768)),
    *(struct.pack("<i", n) for n in (-1, 0, 1, 70000, 2**31 - 1, -(2**31))),
    *(struct.pack("<f", x) for x in (0.0, -1.0, 1e-30, 1e10, 3e38, float("nan"), float("inf"), -float("inf"))),
)
Random = np.random.Generator


def flip_bits(raw: bytes, random: Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(int(random.integers(1, 9))):
        changed[_place(raw, random)] ^= 1 << int(random.integers(8))
    return bytes(changed)


def overwrite_bytes(raw: bytes, random: Random) -> bytes:
    start, count = _place(raw, random), int(random.integers(1, 41))
    return raw[:start] + random.bytes(len(raw[start : start + count])) + raw[start + count :]


def overwrite_number(raw: bytes, random: Random) -> bytes:
    """An extreme number in binary form, in place."""
    number = EXTREMES[int(random.integers(len(EXTREMES)))]
    if random.random() < 0.5:
        number = number[::-1]
    start = _place(raw, random)
    return raw[:start] + number + raw[start + len(number) :]


def replace_text_number(raw: bytes, random: Random) -> bytes:
    """An extreme number in place of one in the text of a header."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:[eE]-?\d+)?", raw[: 2 * HEADER]))
    if not found:
        return flip_bits(raw, random)
    match = found[int(random.integers(len(found)))]
    return raw[: match.start()] + NUMBERS[int(random.integers(len(NUMBERS)))].encode() + raw[match.end() :]


def cut(raw: bytes, random: Random) -> bytes:
    return raw[: int(random.integers(1, len(raw)))]


def drop(raw: bytes, random: Random) -> bytes:
    start = _place(raw, random)
    return raw[:start] + raw[start + int(random.integers(1, 200)) :]


def repeat(raw: bytes, random: Random) -> bytes:
    start = _place(raw, random)
    return raw[:start] + raw[start : start + int(random.integers(1, 200))] + raw[start:]


def append(raw: bytes, random: Random) -> bytes:
    return raw + random.bytes(int(random.integers(1, 20_000)))


def shuffle_lines(raw: bytes, random: Random) -> bytes:
    """Lines of a text header exchanged, doubled or lost."""
    lines = raw.split(b"\n", 12)
    if len(lines) < 4:
        return drop(raw, random)
    one, other = (int(n) for n in random.integers(0, len(lines) - 1, 2))
    way = int(random.integers(3))
    if way == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif way == 1:
        lines.insert(one, lines[other])
    else:
        del lines[one]
    return b"\n".join(lines)


MUTATIONS: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip_bits,
    overwrite_bytes,
    overwrite_number,
    replace_text_number,
    cut,
    drop,
    repeat,
    append,
    shuffle_lines,
)


def mutated(raw: bytes, random: Random) -> Iterator[tuple[str, bytes]]:
    """Name and result of one mutation after another, for ever."""
    while True:
        change = MUTATIONS[int(random.integers(len(MUTATIONS)))]
        yield change.__name__, change(raw, random)


def _place(raw: bytes, random: Random) -> int:
    """A position: two times of three in the header."""
    end = min(len(raw), HEADER) if random.random() < 2 / 3 else len(raw)
    return int(random.integers(end))
