"""The orchestration floor: one small file from POST to `completed`, one task at a time, on an instant machine."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from tests.bench import tasks, timeline
from tests.bench.bed import Bed
from tests.bench.measure import Reference, Row, medians

REFERENCE = Reference("CAPEv2 2.05 s; Cuckoo3 4.0 s", "<= 0.10 s")
PAUSE_S = 0.3  # between two tasks: the machine is clean again, nothing is left to do
WARM_UP_TIMEOUT_S = 60.0
ENVIRONMENT = "RabbitMQ, PostgreSQL, nginx, five services as processes; instant hypervisor (a fake that runs nothing)"


async def floor(bed: Bed, runs: int) -> list[Row]:
    """Two figures for each choice of plugins: the whole, and the whole less the time in which the guest is watched."""
    await tasks.machines_ready(bed.origin, 1, timeout_s=WARM_UP_TIMEOUT_S)
    await tasks.warm_up(bed.origin, tasks.WHOLE, timeout_s=WARM_UP_TIMEOUT_S)
    rows = []
    for choice, fields in (("guest stage only", tasks.GUEST_ONLY), ("identity and guest stage", tasks.WHOLE)):
        rows += await _floor(bed, runs, choice, fields)
    return rows


async def _floor(bed: Bed, runs: int, choice: str, fields: Sequence[tuple[str, str]]) -> list[Row]:
    begun_at = datetime.now(UTC)
    finished = []
    for _ in range(runs):
        finished.append(await tasks.run_one(bed.origin, fields))
        await asyncio.sleep(PAUSE_S)
    events = await tasks.facts(bed.origin, begun_at.isoformat().replace("+00:00", "Z"))
    instants = [timeline.of_task(events, one.task_id) for one in finished]
    watched = [timeline.between(one, timeline.SAMPLE_STARTED, timeline.OBSERVATION_ENDED) for one in instants]
    wholes = [one.ended_at - one.posted_at for one in finished]
    plugins = ", ".join(value for name, value in fields if name == "plugin")
    what = f"POST of 2 KiB to the client hearing `completed` (report sealed, machine clean); plugins {plugins}"
    parts = medians([timeline.since(one, run.posted_at) for one, run in zip(instants, finished, strict=True)])
    accepted = {"202 received": medians([{"": one.accepted_at - one.posted_at} for one in finished])[""]}
    told = tuple(whole - watch for whole, watch in zip(wholes, watched, strict=True))
    return [
        Row(
            name=f"floor, {choice}",
            what_ran=f"{what}; {ENVIRONMENT}. Parts: seconds since POST",
            unit="s",
            values=tuple(wholes),
            reference=REFERENCE,
            parts={**accepted, **parts, "client heard `completed`": medians([{"": whole} for whole in wholes])[""]},
        ),
        Row(
            name=f"floor less watching, {choice}",
            what_ran="the same runs, less the time from SampleStarted to ObservationEnded (an observation settles for "
            "1 s by design, which is analysis and not orchestration)",
            unit="s",
            values=told,
            reference=REFERENCE,
        ),
    ]
