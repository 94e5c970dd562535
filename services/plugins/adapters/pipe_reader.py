"""Reads one end of a pipe as bytes are asked for.

Not a transport of the event loop: uvloop and Python would both close the descriptor, and the second to do it may close
what another thread has opened meanwhile.
"""

import asyncio
import os

from services.plugins.adapters.process_tree import readable

PIECE_BYTES = 256 * 1024


class PipeReader:
    """Owns the descriptor. Nothing is read before it is asked for, so a writer that floods the pipe waits."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held = bytearray()

    def close(self) -> None:
        """The descriptor is closed."""
        os.close(self._descriptor)

    async def read(self, most: int) -> bytes:
        """At least one byte and at most so many; none at the end."""
        if not self._held:
            await self._fill()
        return self._take(most)

    async def readexactly(self, count: int) -> bytes:
        """So many bytes. Raises asyncio.IncompleteReadError where the pipe ends before."""
        while len(self._held) < count:
            if not await self._fill():
                raise asyncio.IncompleteReadError(bytes(self._held), count)
        return self._take(count)

    async def _fill(self) -> bool:
        await readable(self._descriptor)
        piece = os.read(self._descriptor, PIECE_BYTES)
        self._held += piece
        return bool(piece)

    def _take(self, most: int) -> bytes:
        taken = bytes(self._held[:most])
        del self._held[:most]
        return taken
