"""How often a part ended in a row: kept by the supervisor, forgotten by a new one."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from deploy.local import crashes, processes, supervisor
from deploy.local.parts import Part
from deploy.local.processes import Command, Identity
from deploy.local.state import State
from tests.unit.deploy.test_state import ME

NAME = "part"
WITHIN_S = 20.0


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A state directory with room for logs and numbers."""
    for name in ("run", "log"):
        (tmp_path / name).mkdir()
    return State(tmp_path, ME)


def test_a_part_loops_from_the_third_time_on(state: State) -> None:
    """Twice is no loop, and nought forgets."""
    for times, loops in ((0, False), (1, False), (2, False), (3, True), (4, True), (0, False)):
        crashes.note(state, NAME, times)
        assert crashes.count(state, NAME) == times
        assert crashes.is_looping(state, NAME) is loops


@pytest.mark.parametrize(("program", "loops"), [(["/bin/false"], True), (["/bin/sleep", "60"], False)])
async def test_the_supervisor_tells_a_loop_from_a_steady_part(state: State, program: list[str], loops: bool) -> None:  # noqa: FBT001
    """What an earlier supervisor counted does not matter."""
    crashes.note(state, NAME, 7)

    def start() -> Identity:
        return processes.spawn(state, Command(NAME, program, ME.services, {}, Path("/")))

    watching = asyncio.create_task(supervisor.watch(state, Part(NAME, start, lambda: processes.stop(state, NAME))))
    try:
        async with asyncio.timeout(WITHIN_S):
            while processes.remembered(state, NAME) is None or crashes.is_looping(state, NAME) is not loops:  # noqa: ASYNC110 - the file is the interface
                await asyncio.sleep(0.05)
        assert crashes.count(state, NAME) == (crashes.LOOPING_AFTER if loops else 0)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        processes.stop(state, NAME)
