"""Reading a pipe on the services' own event loop."""

import asyncio
import os
from collections.abc import Coroutine

import pytest
import uvloop

from services.plugins.adapters.pipe_reader import PipeReader


def on_uvloop(work: Coroutine[None, None, None]) -> None:
    """The coroutine runs on the loop that services run on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def test_what_is_written_is_read_piece_by_piece_to_the_end() -> None:
    """As much as is asked for, however it was written; the end is empty, and inside of something it is an error."""

    async def work() -> None:
        read_end, write_end = os.pipe()
        reader = PipeReader(read_end)
        content = os.urandom(300_000)
        with os.fdopen(write_end, "wb", buffering=0) as pipe:
            written = asyncio.create_task(asyncio.to_thread(pipe.write, content))
            got = await reader.readexactly(5) + await reader.readexactly(200_000)
            while len(got) < len(content):
                got += await reader.read(70_000)
            await asyncio.wait_for(written, 10)
        assert got == content
        assert await reader.read(10) == b""
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(1)
        reader.close()

    on_uvloop(work())


def test_closing_closes_nothing_that_was_opened_later_under_the_same_number() -> None:
    """The number is free at once, and whoever has it next keeps it."""

    async def work() -> None:
        for _ in range(50):
            read_end, write_end = os.pipe()
            reader = PipeReader(read_end)
            os.write(write_end, b"x")
            assert await reader.read(1) == b"x"
            reader.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(read_end)
            later = os.open("/dev/null", os.O_RDONLY)
            os.dup2(later, read_end)
            for _ in range(5):
                await asyncio.sleep(0)
            os.fstat(read_end)
            for number in {later, read_end}:
                os.close(number)
            os.close(write_end)

    on_uvloop(work())
