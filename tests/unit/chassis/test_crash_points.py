"""A crash point kills its process, at the named time and place, and only where that was asked for."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.chassis import crash_points
from services.chassis.crash_points import Point, UnknownPoint

pytestmark = pytest.mark.promise("P3")
ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 30
THREE_TIMES = f"""
import sys
from services.chassis import crash_points
crash_points.arm(sys.argv[1] or None)
for turn in range(3):
    crash_points.reached(crash_points.Point.COMMIT_AFTER)
    crash_points.reached(crash_points.Point.{Point.COMMIT_BEFORE.name})
    print(turn, flush=True)
"""


def three_times(armed: str) -> tuple[int, str]:
    """Exit code and output of a process that comes to two points three times."""
    done = subprocess.run(
        [sys.executable, "-c", THREE_TIMES, armed],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("armed", "turns"), [("commit.before", ""), ("commit.before:2", "0\n"), ("commit.before:3", "0\n1\n")]
)
def test_a_process_dies_by_sigkill_the_time_that_was_named(armed: str, turns: str) -> None:
    """What it did before stands; nothing comes after."""
    code, said = three_times(armed)
    assert code == -signal.SIGKILL
    assert [line for line in said.splitlines() if line.isdigit()] == turns.split()


@pytest.mark.parametrize("armed", ["", "commit.before:4", "ack.after"])
def test_a_process_lives_that_is_not_armed_or_never_gets_there(armed: str) -> None:
    """A point costs nothing where nobody asked."""
    assert three_times(armed) == (0, "0\n1\n2\n")


@pytest.mark.parametrize("armed", ["commit", "commit.before:0", "commit.before:x", "commit.before:-1", ":1"])
def test_a_point_that_does_not_exist_is_refused(armed: str) -> None:
    """A typo must not pass for a proof."""
    with pytest.raises(UnknownPoint, match=r"wanted is point\[:nth\]"):
        crash_points.arm(armed)


def test_what_is_guarded_is_the_thing_itself_unless_some_point_is_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in exists only in a process that is to die, and then every awaited call passes both points."""

    class Port:
        async def act(self, word: str) -> str:
            return word

        def plain(self) -> str:
            return "plain"

    port = Port()
    passed: list[Point] = []
    assert crash_points.guarded(port, Point.AGENT_BEFORE, Point.AGENT_AFTER) is port
    monkeypatch.setattr(crash_points, "_armed", crash_points._Armed(Point.ACK_AFTER, 1))
    stand_in = crash_points.guarded(port, Point.AGENT_BEFORE, Point.AGENT_AFTER)
    monkeypatch.setattr(crash_points, "reached", passed.append)
    assert asyncio.run(stand_in.act("done")) == "done"
    assert stand_in.plain() == "plain"
    assert passed == [Point.AGENT_BEFORE, Point.AGENT_AFTER]


def test_every_crash_point_stands_somewhere_in_the_services() -> None:
    """A name that no code passes would be a proof of nothing."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "services").rglob("*.py")]
    used = {point for point in Point for source in sources if f"Point.{point.name}" in source}
    assert used == set(Point)
