"""Damaged copies of a sample: cut off, bits flipped, bytes overwritten. The same for the same seed."""

import random
from collections.abc import Iterator


def mutations(content: bytes, count: int, seed: str) -> Iterator[bytes]:
    """`count` damaged copies: a third cut off, a third with one flipped bit, a third with a run of other bytes."""
    chance = random.Random(seed)  # noqa: S311 - chosen to be repeated
    for number in range(count):
        damaged = bytearray(content)
        at = chance.randrange(len(content))
        if number % 3 == 0:
            del damaged[at:]
        elif number % 3 == 1:
            damaged[at] ^= 1 << chance.randrange(8)
        else:
            length = chance.randrange(1, 9)
            damaged[at : at + length] = chance.randbytes(length)
        yield bytes(damaged)
