"""Throughput: many tasks at once on forty instant machines, and submissions alone."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from tests.bench import processor, tasks
from tests.bench.bed import Bed
from tests.bench.floor import ENVIRONMENT, WARM_UP_TIMEOUT_S
from tests.bench.measure import Reference, Row, medians
from tests.bench.wire import Origin, Refused, form, unique_file

ANALYSES = Reference("CAPEv2 6.0/s (10 machines: 3.3)", ">= 50/s")
SUBMISSIONS = Reference("CAPEv2 184/s, Cuckoo3 473/s (neither over HTTP)", ">= 400/s")
CLIENTS = 8
FILE_BYTES = 14 * 1024
DRAIN_TIMEOUT_S = 300.0
OTHERS = ("scheduler", "machines", "plugins", "results")


async def analyses(bed: Bed, runs: int, count: int, fields: Sequence[tuple[str, str]]) -> Row:
    """Analyses per second, from the first POST to the last `completed`. Raises Refused when one did not complete."""
    await tasks.machines_ready(bed.origin, bed.fleet.size, timeout_s=WARM_UP_TIMEOUT_S)
    await tasks.warm_up(bed.origin, fields, timeout_s=WARM_UP_TIMEOUT_S)
    _, before = await tasks.end_of_all(bed, 0, timeout_s=DRAIN_TIMEOUT_S)
    done = sum(before.values())
    rates, costs = [], []
    for _ in range(runs):
        forms = [form(unique_file(tasks.SAMPLE_BYTES), "sample.sh", fields) for _ in range(count)]
        began, spent = time.time(), processor.of_bed(bed.here.state)
        await submit_all(bed.origin, forms)
        done += count
        ended_at, states = await tasks.end_of_all(bed, done, timeout_s=DRAIN_TIMEOUT_S)
        if _not_completed(states) > _not_completed(before):
            raise Refused(f"of {done} tasks not all completed: {states}")
        rates.append(count / (ended_at - began))
        costs.append(processor.spent(spent, processor.of_bed(bed.here.state), count))
    plugins = ", ".join(value for name, value in fields if name == "plugin")
    return Row(
        name=f"throughput, {bed.fleet.size} instant machines",
        what_ran=f"{count} tasks by {CLIENTS} concurrent clients; plugins {plugins}; {ENVIRONMENT}; "
        "stages_at_once 64. Parts: processor seconds per analysis, by process",
        unit="/s",
        values=tuple(rates),
        reference=ANALYSES,
        parts={f"processor s per analysis: {name}": value for name, value in medians(costs).items()},
        notes=("each analysis watches its guest for at least 1 s (the settling of an observation)",),
    )


async def submissions(bed: Bed, runs: int, count: int) -> Row:
    """Submissions per second while nothing but intake works. The other services are stopped and stay so."""
    bed.stop(*OTHERS)
    rates = [await _submission_rate(bed, count) for _ in range(runs)]
    return Row(
        name="HTTP submissions",
        what_ran=f"{count} unique files of 14 KiB by {CLIENTS} concurrent clients through nginx, each durable (file "
        "and row on disk) when its 202 came; the four services behind intake stopped; one machine for all and the "
        "client",
        unit="/s",
        values=tuple(rates),
        reference=SUBMISSIONS,
    )


async def submit_all(origin: Origin, forms: Sequence[bytes]) -> None:
    """Every form was accepted (202), by several clients at once, each on a connection of its own."""
    waiting = iter(forms)

    async def client() -> None:
        async with origin.connected() as wire:
            for body in waiting:
                await wire.submit(body)

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())


async def _submission_rate(bed: Bed, count: int) -> float:
    forms = [form(unique_file(FILE_BYTES), "sample.sh", tasks.GUEST_ONLY) for _ in range(count)]
    began = time.monotonic()
    await submit_all(bed.origin, forms)
    return count / (time.monotonic() - began)


def _not_completed(states: Mapping[str, int]) -> int:
    return sum(count for state, count in states.items() if state in tasks.OVER and state != "completed")
