"""Drifts, one after the other, against a running installation with a real machine: each is healed within 30 s.

    python -m tests.prove.drifts [--count N] [--only PATTERN]

Nothing is restarted for them. A private installation is made for the run and is gone afterwards.
"""

import argparse
import asyncio
import contextlib
import inspect
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import libvirt

from tests.prove import deeds, leases
from tests.prove.drift_table import HEALED_WITHIN_S, TABLE, Drift
from tests.prove.facts import Fact
from tests.prove.ground import Ground
from tests.prove.private import on_private_ground
from tests.prove.report import seconds, table, tell

WORDS_MAX = 100
LOOK_S = 0.1  # what is put right on the host is announced by nothing
HISTORY_TIMEOUT_S = 10.0  # a fact may be heard before the history, which is a projection, shows its event
HARMLESS = b"#!/bin/sh\nexit 0\n"


@dataclass(frozen=True)
class Outcome:
    """What came of one drift."""

    drift: Drift
    seen_after_s: float | None = None
    over_after_s: float | None = None
    reason: str = ""
    failure: str = ""


async def prove(ground: Ground, drift: Drift) -> Outcome:
    """The drift was done and what the table says is true. Raises AssertionError, with what is true instead."""
    if drift.when == "ready":
        outcome = await _done(ground, drift)
    else:
        async with leases.running(ground, route=drift.route) as leased:
            outcome = await _done(ground, drift, leased.task_id)
    await ground.no_orphans()
    return outcome


async def _done(ground: Ground, drift: Drift, task_id: str | None = None) -> Outcome:
    before, mark = await ground.shown(), ground.ear.mark()
    done = drift.do(ground)
    if inspect.isawaitable(done):
        done = await done
    at_s = time.monotonic()
    try:
        over_s, seen = await _until_over(ground, drift, int(before["epoch"]), mark, at_s)
    finally:
        if done is not None:
            done()
    reason = await _reason(ground, drift, before, task_id)
    if drift.outcome == "quarantined":
        await ground.rebuilt()
    return Outcome(drift, seen, over_s, reason)


async def _until_over(ground: Ground, drift: Drift, epoch: int, mark: int, at_s: float) -> tuple[float, float | None]:
    """Seconds until it was put right, and until it was seen."""
    if drift.outcome == "kept":
        await _until_right(ground, drift)
        took_s = time.monotonic() - at_s
        await ground.looked_at()
        shown = await ground.shown()
        assert (shown["state"], shown["epoch"]) == ("ready", epoch), f"{drift.name}: it became {shown['state']}"
        return took_s, None
    ends = {"healed": "machine.reverted", "quarantined": "machine.quarantined"}

    def is_end(fact: Fact) -> bool:
        return fact.is_of(ground.machine_id) and fact.name in ends.values() and int(fact.data["epoch"]) > epoch

    end = await ground.ear.until(f"{drift.name}: {drift.outcome}", is_end, since=mark, timeout_s=drift.within_s)
    assert end.name == ends[drift.outcome], f"{drift.name}: {end.name}: {end.data.get('reason')}"
    seen = next((fact for fact in ground.ear.facts[mark:] if fact.is_of(ground.machine_id)), end)
    return end.at_s - at_s, seen.at_s - at_s


async def _until_right(ground: Ground, drift: Drift) -> None:
    give_up_at = time.monotonic() + drift.within_s
    while drift.is_right is not None and not drift.is_right(ground):
        assert time.monotonic() < give_up_at, f"{drift.name}: not put right within {drift.within_s:.0f} s"
        await asyncio.sleep(LOOK_S)


async def _reason(ground: Ground, drift: Drift, before: dict[str, Any], task_id: str | None) -> str:
    """The recorded reason that says what the table wants said. Raises AssertionError when none does.

    The machine's history has it, or the task: that knows how its attempt or its stage on the machine was lost.
    """
    known = {entry["version"] for entry in before["history"]}
    give_up_at = time.monotonic() + HISTORY_TIMEOUT_S
    while True:
        entries = [entry for entry in (await ground.shown())["history"] if entry["version"] not in known]
        told = [entry["details"].get("reason", "") for entry in entries]
        told += await _said_by_task(ground, task_id) if task_id else []
        said = [reason for reason in told if reason and re.search(drift.says, reason)]
        if said or not drift.says:
            return str(said[-1]) if said else ""
        assert time.monotonic() < give_up_at, f"{drift.name}: no reason says {drift.says!r}: {told}"
        await asyncio.sleep(LOOK_S)


async def _said_by_task(ground: Ground, task_id: str) -> list[str]:
    task = await ground.task(task_id)
    return [*(lost["reason"] for lost in task["lost_attempts"]), *(error["reason"] for error in task["errors"])]


async def prove_all(ground: Ground, drifts: Sequence[Drift], *, earns_trust: bool) -> list[Outcome]:
    """Each in turn, while a domain of somebody else's stands beside the machine and is never touched."""
    deeds.start_empty(ground, deeds.STRANGER)
    found = []
    try:
        for drift in drifts:
            found.append(await _tried(ground, drift))
            said = found[-1].failure or f"{drift.outcome} after {seconds(found[-1].over_after_s)}"
            tell(f"  {drift.name}: {said}")
            if earns_trust:  # the same divergence three times is quarantined, unless the machine served meanwhile
                await leases.analysed(ground, HARMLESS)
    finally:
        with contextlib.suppress(libvirt.libvirtError), ground.libvirt() as connection:
            connection.lookupByName(deeds.STRANGER).destroy()
    return found


async def _tried(ground: Ground, drift: Drift) -> Outcome:
    """What came of it, a failure included, after which the machine is made ready for the next."""
    try:
        outcome = await prove(ground, drift)
        assert deeds.exists(ground, deeds.STRANGER), "somebody else's domain was touched"
    except AssertionError as failure:
        await ground.made_ready()
        return Outcome(drift, failure=str(failure))
    return outcome


def said(found: Sequence[Outcome]) -> str:
    """The outcomes as a table."""
    rows = [
        (
            one.drift.name,
            "FAILED" if one.failure else one.drift.outcome,
            seconds(one.seen_after_s),
            seconds(one.over_after_s),
            (one.failure or one.reason)[:WORDS_MAX],
        )
        for one in found
    ]
    slowest = max((one.over_after_s or 0.0 for one in found), default=0.0)
    failed = sum(bool(one.failure) for one in found)
    return (
        table(("drift", "outcome", "seen", "over", "recorded reason"), rows)
        + f"\n{len(found)} drifts, {failed} failed, none with a restart; slowest {slowest:.1f} s, "
        + f"{HEALED_WITHIN_S:.0f} s allowed"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Proves and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove.drifts", description=__doc__)
    parser.add_argument("--count", type=int, help=f"how many drifts, in the table's order ({len(TABLE)})")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only drifts whose name has the pattern")
    asked = parser.parse_args(argv)
    chosen = [drift for drift in TABLE if re.search(asked.only, drift.name)]
    turns = list(islice(cycle(chosen), asked.count or len(chosen)))
    found = on_private_ground(lambda ground: prove_all(ground, turns, earns_trust=True))
    sys.stdout.write(said(found) + "\n")
    return int(any(one.failure for one in found))


if __name__ == "__main__":
    sys.exit(main())
