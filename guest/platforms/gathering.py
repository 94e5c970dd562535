"""Gathers small pieces into frames by size and time: a program that writes single bytes must not flood the record."""

import os
import select
import time
from collections.abc import Callable

from guest import limits

READ_BYTES = 64 * 1024
GATHER_S = 0.2
_MS_PER_S = 1000


class Gathering:
    """Hands over what was gathered when it is a frame, or old enough."""

    def __init__(self, hand_over: Callable[[bytes], None]) -> None:
        self._hand_over = hand_over
        self._pieces = bytearray()
        self._since = 0.0

    def add(self, piece: bytes) -> None:
        """The piece follows the others."""
        if not self._pieces:
            self._since = time.monotonic()
        self._pieces += piece
        if len(self._pieces) >= limits.FRAME_BYTES or time.monotonic() - self._since >= GATHER_S:
            self.flush()

    def flush(self) -> None:
        """Nothing is held back."""
        if self._pieces:
            self._hand_over(bytes(self._pieces))
            self._pieces.clear()


def read_all(
    descriptor: int, take: Callable[[bytes], None], *, is_over: Callable[[], bool], idle: Callable[[], None]
) -> None:
    """Everything that comes out of a pipe was taken, until its writers are gone, or nothing comes and it is over.

    `idle` is called whenever nothing comes for a while.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    was_over = False
    while True:  # ends with the writers
        if not poll.poll(GATHER_S * _MS_PER_S):
            idle()
            if was_over:
                return
            was_over = is_over()
            continue
        piece = os.read(descriptor, READ_BYTES)
        if not piece:
            return
        take(piece)
