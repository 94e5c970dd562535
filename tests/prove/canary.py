"""A canary in every place where a run could leave one is never seen by the next lease.

    python -m tests.prove.canary [--count N] [--firmware bios|efi]

Each lease looks for the canaries of those before it, from inside the guest, and plants its own: in files, in a file
without a name, in a RAM disk, in a process's environment, in dirty pages. The host looks for them as raw bytes in the
whole memory of the emulator, in the overlay and in every file of the machine: while the lease runs, where it must find
the lease's own (the search works), and once the machine is ready again, where it must find none. With UEFI, the host
also writes it into the incarnation's firmware variables.
"""

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.machines.adapters.machine_files import VARIABLES
from tests.prove import leases
from tests.prove.ground import LOOK_S, Ground
from tests.prove.private import on_private_ground
from tests.prove.report import seconds, table, tell
from tests.prove.traces import Marks

COUNT = 50
PLANTED_TIMEOUT_S = 180.0  # a search takes seconds, and a minute when the processors are busy
HOLD_S = 600  # for as long, if nobody ends it, a process of the sample holds its canary, and the host searches
END_TIMEOUT_S = 240.0  # UEFI under emulation is slow, and so is a guest that searches its whole disk
OWN_FOUND, EARLIER_FOUND, NOTHING_FOUND = 3, 7, 5
REMEMBERED = 3
START = "mbx-" + "canary-"
MARKS = Marks(START.encode())
# The mark is put together in the guest: the script's own text, which is also in its memory, does not hold it.
SAMPLE = """\
#!/bin/sh
start='mbx-'; start="${{start}}canary-"
places='/home/sample /var/tmp /tmp /dev/shm /run/lock'
for earlier in {earlier}; do
    mark="${{start}}$earlier"
    grep -rqsF "$mark" $places && exit {earlier_found}
    grep -qsF "$mark" /proc/[0-9]*/environ /dev/vda && exit {earlier_found}
done
mark="${{start}}{own}"
for place in $places; do echo "$mark" > "$place/planted" 2>/dev/null; done
exec 9> /var/tmp/nameless; rm /var/tmp/nameless; echo "$mark" >&9
bulk="$mark "; i=0; while [ $i -lt 12 ]; do bulk="$bulk$bulk"; i=$((i+1)); done
echo "$bulk" > /home/sample/bulk
sync
CANARY="$mark" sleep {hold_s} &
grep -rqsF "$mark" $places && grep -qsF "$mark" /proc/[0-9]*/environ && exit {own_found}
exit {nothing_found}
"""


@dataclass(frozen=True)
class Lease:
    """What one lease showed: where the host found its own canary, and that it found no earlier one."""

    number: int
    own_found_in: tuple[str, ...]
    searched_mib: int
    took_s: float


async def prove(ground: Ground, number: int, earlier: Sequence[str]) -> tuple[Lease, str]:
    """One lease saw no canary but its own, and left none. Raises AssertionError. Also returns its canary's digits."""
    began_s, mark = time.monotonic(), ground.ear.mark()
    await asyncio.to_thread(assert_none, ground)
    own = secrets.token_hex(16)
    script = SAMPLE.format(
        earlier=" ".join(earlier[-REMEMBERED:]),
        own=own,
        hold_s=HOLD_S,
        own_found=OWN_FOUND,
        earlier_found=EARLIER_FOUND,
        nothing_found=NOTHING_FOUND,
    )
    task_id = await leases.submitted(ground, script.encode(), timeout_s=HOLD_S)
    fact = await leases.leased_to(ground, task_id, since=mark)
    code = await _exit_code(ground, task_id, mark)
    assert code == OWN_FOUND, f"lease {number}: the sample ended with {code}: {_MEANINGS.get(code, 'by itself')}"
    found_in = await _until_planted(ground, f"{START}{own}".encode())
    await leases.cancelled(ground, task_id, since=mark)
    await ground.reverted(since=mark, timeout_s=END_TIMEOUT_S, above=int(fact.data["epoch"]))
    size = sum(path.stat().st_size for path in ground.files.directory.rglob("*") if path.is_file()) >> 20
    return Lease(number, found_in, size, time.monotonic() - began_s), own


def _marks_in(ground: Ground, place: str) -> set[bytes]:
    try:
        return _MARKS_IN[place](ground)
    except (OSError, ValueError) as gone:
        raise AssertionError(f"the lease was over before its canary was found in its {place}") from gone


_MARKS_IN: dict[str, Callable[[Ground], set[bytes]]] = {
    "memory": lambda ground: MARKS.in_memory(ground.pid),
    "overlay": lambda ground: MARKS.in_file(ground.overlay),
    "firmware": lambda ground: MARKS.in_file(ground.life / VARIABLES),
}
_MEANINGS = {
    EARLIER_FOUND: "it found the canary of an earlier lease",
    NOTHING_FOUND: "it did not even find its own: the search inside the guest does not work",
}


def assert_none(ground: Ground) -> None:
    """No canary is in the memory of the machine that stands ready, nor in any of its files. Raises AssertionError."""
    found = MARKS.in_memory(ground.pid) | MARKS.in_files_below(ground.files.directory)
    assert not found, f"a canary outlived its lease: {found}"


async def _until_planted(ground: Ground, mark: bytes) -> tuple[str, ...]:
    """The host's search finds the mark, wherever this machine has a place for it. Raises AssertionError."""
    variables = ground.life / VARIABLES
    if variables.exists():
        with variables.open("r+b") as stream:  # as the firmware would: UEFI leaves the end of its store unused
            stream.seek(-len(mark), 2)
            stream.write(mark)
    give_up_at = time.monotonic() + PLANTED_TIMEOUT_S
    wanted = {"memory", "overlay", *(["firmware"] if variables.exists() else [])}
    found: set[str] = set()
    while found != wanted:
        assert time.monotonic() < give_up_at, f"the host's search found it in {sorted(found)}, of {sorted(wanted)}"
        await asyncio.sleep(LOOK_S)
        for place in sorted(wanted - found):
            if mark in await asyncio.to_thread(_marks_in, ground, place):
                found.add(place)
    return tuple(sorted(found))


async def _exit_code(ground: Ground, task_id: str, mark: int) -> int:
    fact = await ground.ear.until(
        "the sample ended",
        lambda one: one.name == "sample.exited" and one.data["task_id"] == task_id,
        since=mark,
        timeout_s=END_TIMEOUT_S,
    )
    return int(fact.data["exit_code"] if fact.data["exit_code"] is not None else -1)


async def prove_all(ground: Ground, count: int) -> list[Lease]:
    """That many leases, one after the other, and a last look."""
    found: list[Lease] = []
    planted: list[str] = []
    for number in range(1, count + 1):
        lease, own = await prove(ground, number, planted)
        found.append(lease)
        planted.append(own)
        tell(
            f"  lease {number}: own canary found in {', '.join(lease.own_found_in)}, no other; {seconds(lease.took_s)}"
        )
    await asyncio.to_thread(assert_none, ground)
    await ground.no_orphans()
    return found


def said(found: Sequence[Lease]) -> str:
    """The leases as a table."""
    rows = [
        (lease.number, ", ".join(lease.own_found_in), "none", f"{lease.searched_mib} MiB", seconds(lease.took_s))
        for lease in found
    ]
    return (
        table(("lease", "own canary found in", "earlier ones", "files searched", "took"), rows)
        + f"\n{len(found)} leases, each saw its own canary and no other's, inside the guest and from the host"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Proves and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove.canary", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many leases ({COUNT})")
    parser.add_argument("--firmware", choices=("bios", "efi"), default="bios", help="what the machine boots with")
    asked = parser.parse_args(argv)
    found = on_private_ground(lambda ground: prove_all(ground, asked.count), firmware=asked.firmware)
    sys.stdout.write(said(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
