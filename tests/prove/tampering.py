"""A base image with one byte changed is never leased: the machine is quarantined, and says why and what to do.

    python -m tests.prove.tampering [--count N]

The byte is changed at the start, in the middle and at the end of the image's disk, and of its kernel; while the machine
stands ready with a task about to take it, while it is being cleaned, and before it is built. Times, size and inode of
the file stay as they were.
"""

import argparse
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

from tests.prove import leases
from tests.prove.bytes import flipped
from tests.prove.facts import Fact
from tests.prove.ground import Ground
from tests.prove.private import on_private_ground
from tests.prove.report import seconds, table, tell

QUARANTINED_WITHIN_S = 30.0
WORDS_MAX = 90
_NEVER = ("machine.leased", "machine.reverted")
HARMLESS = b"#!/bin/sh\nexit 0\n"
PLACES: dict[str, tuple[str, float]] = {
    "first byte of the disk": ("disk.qcow2", 0.0),
    "middle of the disk": ("disk.qcow2", 0.5),
    "last byte of the disk": ("disk.qcow2", 1.0),
    "middle of the kernel": ("vmlinuz", 0.5),
}


@dataclass(frozen=True)
class Outcome:
    """What came of one changed byte."""

    where: str
    when: str
    quarantined_after_s: float
    reason: str


async def while_ready(ground: Ground, path: Path, offset: int) -> Fact:
    """Changed in the moment in which a task asks for the machine: there is no time for a look in between."""
    epoch, mark = await ground.epoch(), ground.ear.mark()
    with flipped(path, offset):
        task_id = await leases.submitted(ground, HARMLESS, timeout_s=30)
        end = await _quarantined(ground, mark)
        await leases.cancelled(ground, task_id, since=mark)
        _assert_never_leased(ground, mark, epoch)
    return end


async def while_cleaned(ground: Ground, path: Path, offset: int) -> Fact:
    """Changed while the machine is between two leases."""
    async with leases.running(ground) as leased:
        epoch, mark = await ground.epoch(), ground.ear.mark()
        with flipped(path, offset):
            await leases.cancelled(ground, leased.task_id, since=mark)
            end = await _quarantined(ground, mark)
            _assert_never_leased(ground, mark, epoch)
    return end


async def before_it_is_built(ground: Ground, path: Path, offset: int) -> Fact:
    """Changed while an operator has the machine out of the pool; a rebuild then builds nothing of it."""
    mark = ground.ear.mark()
    await ground.told("quarantine", "the proof wants it built again")
    await _quarantined(ground, mark)
    with flipped(path, offset):
        epoch, mark = await ground.epoch(), ground.ear.mark()
        await ground.told("rebuild", "the proof wants it built of a changed image")
        end = await _quarantined(ground, mark)
        _assert_never_leased(ground, mark, epoch)
    return end


WHENS: dict[str, Callable[[Ground, Path, int], Awaitable[Fact]]] = {
    "while it stands ready": while_ready,
    "while it is cleaned": while_cleaned,
    "before it is built": before_it_is_built,
}


async def prove(ground: Ground, where: str, when: str) -> Outcome:
    """Quarantined with a reason, never leased, not built again by itself. Raises AssertionError."""
    name, share = PLACES[where]
    path = ground.image_disk.with_name(name)
    offset = min(int(path.stat().st_size * share), path.stat().st_size - 1)
    began_s = time.monotonic()
    end = await WHENS[when](ground, path, offset)
    reason = str(end.data["reason"])
    for word in (name, "sha256", "rebuild the machine"):
        assert word in reason, f"the reason does not say {word!r}: {reason}"
    shown = await ground.shown(at_epoch=int(end.data["epoch"]))
    assert shown["state"] == "quarantined", f"it is {shown['state']} by itself"
    assert shown["history"][0]["details"]["cause"] == "digest_mismatch", shown["history"][0]
    await ground.rebuilt()
    await leases.analysed(ground, HARMLESS)
    return Outcome(where, when, end.at_s - began_s, reason)


async def _quarantined(ground: Ground, mark: int) -> Fact:
    return await ground.ear.until(
        "the machine is quarantined",
        lambda fact: fact.is_of(ground.machine_id) and fact.name == "machine.quarantined",
        since=mark,
        timeout_s=QUARANTINED_WITHIN_S,
    )


def _assert_never_leased(ground: Ground, mark: int, epoch: int) -> None:
    """A lease or a verification since then is of a later epoch; what is only said again is not."""
    leased = [
        fact.data
        for fact in ground.ear.facts[mark:]
        if fact.is_of(ground.machine_id) and fact.name in _NEVER and int(fact.data["epoch"]) > epoch
    ]
    assert not leased, f"a machine of a changed image was leased or called clean: {leased}"


async def prove_all(ground: Ground, turns: Sequence[tuple[str, str]]) -> list[Outcome]:
    """Each in turn."""
    found = []
    for where, when in turns:
        found.append(await prove(ground, where, when))
        tell(f"  {where}, {when}: quarantined after {seconds(found[-1].quarantined_after_s)}")
    return found


def said(found: Sequence[Outcome]) -> str:
    """The outcomes as a table."""
    rows = [(one.where, one.when, seconds(one.quarantined_after_s), one.reason[:WORDS_MAX]) for one in found]
    return (
        table(("one byte changed", "when", "quarantined", "recorded reason"), rows)
        + f"\n{len(found)} changed bytes, none leased, none called clean, none built again by itself"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Proves and prints."""
    every = list(product(PLACES, WHENS))
    parser = argparse.ArgumentParser(prog="python -m tests.prove.tampering", description=__doc__)
    parser.add_argument("--count", type=int, default=len(every), help=f"how many changed bytes ({len(every)})")
    turns = list(islice(every, parser.parse_args(argv).count))
    sys.stdout.write(said(on_private_ground(lambda ground: prove_all(ground, turns))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
