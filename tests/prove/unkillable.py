"""An emulator that does not die is never reused: its machine ends quarantined, with what is needed to find out why.

    python -m tests.prove.unkillable [--count N]

Nothing is simulated: the kernel keeps the process, in the middle of a lease or while the machine stands ready.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

from services.machines.adapters.machine_files import DISK
from tests.prove import deeds, leases
from tests.prove.facts import NotHeardError
from tests.prove.freezer import frozen, is_frozen
from tests.prove.ground import Ground
from tests.prove.private import on_private_ground
from tests.prove.report import seconds, table, tell

QUARANTINED_WITHIN_S = 180.0  # a driver tries for a minute and a half to collect from a guest that does not answer
NOT_LEASED_S = 8.0
WORDS_MAX = 100
HARMLESS = b"#!/bin/sh\nexit 0\n"
When = Literal["while it is leased", "while it stands ready"]
_ENDS = ("machine.quarantined", "machine.reverted")
WHENS: tuple[When, ...] = ("while it is leased", "while it stands ready")


@dataclass(frozen=True)
class Outcome:
    """What came of one emulator that did not die."""

    when: When
    quarantined_after_s: float
    reason: str
    rebuilt_after_s: float


async def prove(ground: Ground, when: When) -> Outcome:
    """Quarantined, not leased, its files kept; built again once the process is gone. Raises AssertionError."""
    epoch, mark = int((await ground.shown())["epoch"]), ground.ear.mark()
    if when == "while it stands ready":
        pid, life = ground.pid, ground.life
        began_s = time.monotonic()
        with frozen(pid):
            deeds.record_removed(ground)
            reason, end_s = await _quarantined(ground, pid, life, mark, epoch)
    else:
        async with leases.running(ground) as leased:
            pid, life = ground.pid, ground.life
            began_s = time.monotonic()
            with frozen(pid):
                await leases.cancelled(ground, leased.task_id, since=mark, timeout_s=QUARANTINED_WITHIN_S)
                reason, end_s = await _quarantined(ground, pid, life, mark, epoch)
    after_s = end_s - began_s
    began_s = time.monotonic()
    await ground.rebuilt()
    rebuilt_after_s = time.monotonic() - began_s
    await leases.analysed(ground, HARMLESS)
    await ground.no_orphans()
    return Outcome(when, after_s, reason, rebuilt_after_s)


async def _quarantined(ground: Ground, pid: int, life: Path, mark: int, epoch: int) -> tuple[str, float]:
    """The machine is out of the pool while its process lives: the recorded reason, and when that was heard."""
    end = await ground.ear.until(
        "the machine is quarantined",
        lambda fact: fact.is_of(ground.machine_id) and fact.name in _ENDS and int(fact.data["epoch"]) > epoch,
        since=mark,
        timeout_s=QUARANTINED_WITHIN_S,
    )
    assert end.name == "machine.quarantined", "a machine whose emulator lives was called clean"
    reason = str(end.data["reason"])
    assert str(pid) in reason, f"the reason does not say which process it is: {reason}"
    assert "rebuild" in reason, f"the reason does not say what to do: {reason}"
    await _is_not_leased(ground)
    assert is_frozen(pid), "the process ended by itself: nothing was proven"
    assert (life / DISK).exists(), "its files are gone, which are evidence"
    return reason, end.at_s


async def _is_not_leased(ground: Ground) -> None:
    """A task that waits for the only machine there is does not get it."""
    mark = ground.ear.mark()
    task_id = await leases.submitted(ground, HARMLESS, timeout_s=30)
    with contextlib.suppress(NotHeardError):
        fact = await ground.ear.until(
            "any lease", lambda one: one.name == "machine.leased", since=mark, timeout_s=NOT_LEASED_S
        )
        raise AssertionError(f"the machine was leased: {fact.data}")
    await leases.cancelled(ground, task_id, since=mark)


async def prove_all(ground: Ground, count: int) -> list[Outcome]:
    """Both ways in turn, that many in all."""
    found = []
    for when in islice(cycle(WHENS), count):
        found.append(await prove(ground, when))
        tell(f"  {when}: quarantined after {seconds(found[-1].quarantined_after_s)}")
    return found


def said(found: Sequence[Outcome]) -> str:
    """The outcomes as a table."""
    rows = [
        (one.when, seconds(one.quarantined_after_s), seconds(one.rebuilt_after_s), one.reason[:WORDS_MAX])
        for one in found
    ]
    return (
        table(("an emulator does not die", "quarantined", "rebuilt", "recorded reason"), rows)
        + f"\n{len(found)} emulators that could not be killed, none reused, each machine quarantined and built again"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Proves and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove.unkillable", description=__doc__)
    parser.add_argument("--count", type=int, default=len(WHENS), help=f"how many emulators ({len(WHENS)})")
    count = parser.parse_args(argv).count
    sys.stdout.write(said(on_private_ground(lambda ground: prove_all(ground, count))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
