"""Changes of a file, independent of its format."""

import random
import struct
from typing import Final

__all__ = ["INTERESTING", "mutated", "random_bytes"]

INTERESTING: Final = (
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    256,
    2**15 - 1,
    2**16 - 1,
    2**24,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**40,
    10**12,
    2**63 - 1,
    -(2**63),
)


def random_bytes(rng: random.Random, most: int = 400) -> bytes:
    return rng.randbytes(rng.randrange(most))


def mutated(content: bytes, rng: random.Random, start: int = 0) -> bytes:
    """Return the content after one to six mostly small changes at or after `start`."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if len(changed) <= start:
            break
        place = rng.randrange(start, len(changed))
        stretch = slice(place, place + rng.choice((1, 2, 4, 16, 200)))
        kind = rng.randrange(9)
        if kind <= 1:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[place] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 3:
            changed[stretch] = b""
        elif kind == 4:
            changed[place:place] = changed[stretch] * rng.choice((1, 1, 2, 50))
        elif kind == 5:
            changed[stretch] = rng.randbytes(len(changed[stretch]))
        elif kind == 6:
            value, size = rng.choice(INTERESTING), rng.choice((2, 4, 8))
            number = struct.pack("<q", value)[:size]
            changed[place : place + size] = number if rng.random() < 0.5 else number[::-1]
        elif kind == 7:
            other = rng.randrange(len(changed))
            changed[stretch] = changed[other : other + len(changed[stretch])]
        elif rng.random() < 0.3:
            del changed[place:]
    return bytes(changed)
