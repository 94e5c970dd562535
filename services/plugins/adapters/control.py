"""Our end of the socket that leads to the first process of a sandbox. No run of a plugin ever holds the other end."""

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any

from malbox.sdk import frames
from services.plugins.adapters.pipe_reader import PipeReader
from services.plugins.errors import SandboxLost

SAID_MAX_BYTES = 64 * 1024


class Control:
    """Frames there and back. Owns its end."""

    def __init__(self, ours: socket.socket) -> None:
        ours.settimeout(0)
        self._socket = ours
        self._reader = PipeReader(os.dup(ours.fileno()))

    def close(self) -> None:
        """The sandbox's first process sees the end and ends itself, should it still live."""
        self._reader.close()
        self._socket.close()

    async def send(self, frame: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """The frame, and with it these descriptors, are on their way. Raises SandboxLost."""
        content = frames.encode_json(frame)
        try:
            if descriptors:
                socket.send_fds(self._socket, [content[: frames.HEADER.size]], descriptors)
                content = content[frames.HEADER.size :]
            await asyncio.get_running_loop().sock_sendall(self._socket, content)
        except OSError as error:
            raise SandboxLost from error

    async def hear(self, *expected: str) -> dict[str, Any]:
        """The next frame, which is one of those. Raises SandboxLost at the end, and at anything else."""
        try:
            kind, length = frames.decode_header(await self._reader.readexactly(frames.HEADER.size))
            if kind != frames.JSON_KIND or length > SAID_MAX_BYTES:
                raise SandboxLost
            said = frames.decode_json(await self._reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError, frames.FrameRefused) as error:
            raise SandboxLost from error
        if said["frame"] not in expected:
            raise SandboxLost
        return said
