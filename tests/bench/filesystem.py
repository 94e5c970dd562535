"""What the guest plugin `filesystem`, which is in every task on Linux, costs on a real guest.

The same small sample goes through with it and without it, in turn. It makes some files, takes them away again, and says
how much processor time the plugin's process has used inside: only plugins have its priority there, and some threads of
the kernel, whose parent is process 2.
"""

import asyncio
import statistics
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from tests.bench import tasks, timeline
from tests.bench.bed import Bed
from tests.bench.measure import Reference, Row, medians
from tests.bench.wire import Origin, Refused

REFERENCE = Reference("-", "-")
READY_TIMEOUT_S = 600.0
PAUSE_S = 1.0
FILES = 20
TICKS_PER_S = 100  # USER_HZ, what proc(5) counts in on Linux
NICE = 5  # of a guest plugin's process (guest.platforms.plugin_process)
SAMPLE = f"""#!/bin/sh
# Harmless: files come and go, then it says how much processor time the plugins' processes have used.
for n in $(seq {FILES}); do echo "$n" > /tmp/bench-$n; done
sleep 1
rm /tmp/bench-*
for stat in /proc/[0-9]*/stat; do
  read -r line < "$stat" || continue
  set -- ${{line##*) }}
  [ "${{2}}" != 2 ] && [ "${{17}}" = {NICE} ] && echo "used $((${{12}} + ${{13}}))"
done
exit 0
"""
WITHOUT = tasks.GUEST_ONLY
WITH = (("plugin", "filesystem"), *WITHOUT)


async def filesystem(bed: Bed, runs: int) -> list[Row]:
    """What the plugin adds to a task, from POST to the client hearing its end; and its processor time in the guest."""
    await tasks.machines_ready(bed.origin, 1, timeout_s=READY_TIMEOUT_S)
    await tasks.warm_up(bed.origin, WITH, timeout_s=READY_TIMEOUT_S)
    begun_at = datetime.now(UTC)
    pairs = [(await _one(bed, WITHOUT), await _one(bed, WITH)) for _ in range(runs)]
    events = await tasks.facts(bed.origin, begun_at.isoformat().replace("+00:00", "Z"))
    parts = medians(
        [
            {f"{choice}: {name}": value for choice, one in zip(("without", "with"), pair, strict=True)
             for name, value in _spans(events, one).items()}
            for pair in pairs
        ]
    )  # fmt: skip
    used_s = [await _used_s(bed.origin, with_it.task_id) for _, with_it in pairs]
    what = (
        f"a real guest (the linux image, 512 MiB, one vCPU, emulated); plugins syscalls, and syscalls with filesystem; "
        f"a script that makes {FILES} files and takes them away"
    )
    return [
        Row(
            name="filesystem: what it adds to a task, real guest",
            what_ran=f"{what}. POST to the client hearing `completed`, with it less without it, in turn",
            unit="s",
            values=tuple(_whole_s(with_it) - _whole_s(without) for without, with_it in pairs),
            reference=REFERENCE,
            parts=parts,
            notes=(f"a task without it takes {statistics.median(_whole_s(one) for one, _ in pairs):.2f} s",),
        ),
        Row(
            name="  its processor time in the guest",
            what_ran="the same runs: its process from its start to the sample's end, as the guest counts (proc(5))",
            unit="s",
            values=tuple(used_s),
            reference=REFERENCE,
        ),
    ]


async def _one(bed: Bed, fields: tuple[tuple[str, str], ...]) -> tasks.Finished:
    await tasks.machines_ready(bed.origin, 1, timeout_s=READY_TIMEOUT_S)
    await asyncio.sleep(PAUSE_S)
    return await tasks.run_one(bed.origin, fields, f"{SAMPLE}# {uuid4()}\n".encode())


def _whole_s(one: tasks.Finished) -> float:
    return one.ended_at - one.posted_at


def _spans(events: list[dict[str, Any]], one: tasks.Finished) -> Mapping[str, float]:
    instants = {"POST": one.posted_at, **timeline.of_task(events, one.task_id), "end": one.ended_at}
    steps = ("POST", timeline.SAMPLE_STARTED, timeline.OBSERVATION_ENDED, "end")
    names = ("POST to first instruction", "observation", "collection to the end")
    return {
        name: timeline.between(instants, first, last)
        for name, first, last in zip(names, steps[:-1], steps[1:], strict=True)
    }


async def _used_s(origin: Origin, task_id: str) -> float:
    """What the sample said. Raises Refused when it said nothing of the plugin."""
    async with origin.connected() as wire:
        report = await wire.get(f"/tasks/{task_id}/report")
    said = [block["text"] for section in report["sections"] for block in section["blocks"]
            if (section["plugin"], block.get("title")) == ("agent", "stdout")]  # fmt: skip
    ticks = [int(line.removeprefix("used ")) for text in said for line in text.splitlines() if line.startswith("used ")]
    if len(ticks) != 1:
        raise Refused(f"the sample of {task_id} saw {len(ticks)} processes of plugins, not one: {said}")
    return ticks[0] / TICKS_PER_S
