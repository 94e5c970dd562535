"""Rows on a real emulated guest: POST to the sample's first instruction, and release to leasable.

Beside each stand the same steps by hand, in the same run and from the same warm snapshot: the ratio is the figure.
"""

import asyncio
import base64
import json
import os
import statistics
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from deploy.local import libvirt, pki
from deploy.local.postgres import DATABASE
from deploy.local.secrets import DATABASE_SUPERUSER
from deploy.local.state import DeployError
from tests.bench import by_hand, tasks, timeline
from tests.bench.bed import Bed
from tests.bench.measure import Reference, Row, medians
from tests.bench.wire import unique_file

FIRST_INSTRUCTION = Reference("polls of seconds in both", "<= 0.40 s")
FIRST_RATIO = Reference("-", "<= 2")
LEASABLE = Reference("libvirt revert 2.9-3.4 s running, 0.7-1.5 s off", "<= 1.3x by hand")
LEASABLE_RATIO = Reference("-", "<= 1.3")
CHECKOUT = Path(__file__).resolve().parents[2]
MACHINE = "linux-1"
PROVISION_TIMEOUT_S = 600.0
READY_TIMEOUT_S = 60.0
BY_HAND_TIMEOUT_S = 300.0
BARE_QEMU = "bare QEMU: overlay + start + load + agent answers"
BARE_LIBVIRT = "bare libvirt: overlay + restore + agent answers"
ENROL = "enrol (key pair made in the guest)"
WHAT = (
    "a real guest (the linux image, 512 MiB, one vCPU, emulated) from a warm pool of one machine; plugin syscalls; "
    "RabbitMQ, PostgreSQL, nginx, five services, libvirt"
)


async def guest(bed: Bed, runs: int) -> list[Row]:
    """Both rows and both ratios."""
    await tasks.machines_ready(bed.origin, 1, timeout_s=PROVISION_TIMEOUT_S)
    await tasks.warm_up(bed.origin, tasks.GUEST_ONLY, timeout_s=READY_TIMEOUT_S)
    begun_at = datetime.now(UTC)
    finished = []
    for _ in range(runs):
        await tasks.machines_ready(bed.origin, 1, timeout_s=READY_TIMEOUT_S)
        await asyncio.sleep(1.0)
        finished.append(await tasks.run_one(bed.origin, tasks.GUEST_ONLY))
    events = await tasks.facts(bed.origin, begun_at.isoformat().replace("+00:00", "Z"))
    instants = [timeline.of_task(events, one.task_id) for one in finished]
    steps = await _by_hand(bed, runs)
    posts = [one.posted_at for one in finished]
    return [*_first_instruction(instants, posts, steps), *_leasable(instants, steps)]


def _first_instruction(
    instants: list[dict[str, float]], posts: list[float], steps: list[dict[str, float]]
) -> list[Row]:
    since = [timeline.since(one, post) for one, post in zip(instants, posts, strict=True)]
    firsts = [timeline.between({"POST": post, **one}, "POST", timeline.SAMPLE_STARTED)
              for one, post in zip(instants, posts, strict=True)]  # fmt: skip
    upto = [{name: at for name, at in one.items() if at <= first} for one, first in zip(since, firsts, strict=True)]
    mine = medians([{f"by hand: {name}": value for name, value in _way(run).items()} for run in steps])
    hand = statistics.median(sum(_way(run).values()) for run in steps)
    return [
        Row(
            name="POST to first instruction, real guest",
            what_ran=f"{WHAT}. POST of 2 KiB to SampleStarted. Parts: seconds since POST, then the steps by hand",
            unit="s",
            values=tuple(firsts),
            reference=FIRST_INSTRUCTION,
            parts={**medians(upto), **mine, "by hand: all steps": hand},
        ),
        Row(
            name="  ratio to the same steps by hand",
            what_ran="each of those runs over the median of resume + connect + put + arm + exec by hand, same "
            "machine, same run of the benchmark",
            unit="x",
            values=tuple(first / hand for first in firsts),
            reference=FIRST_RATIO,
        ),
    ]


def _leasable(instants: list[dict[str, float]], steps: list[dict[str, float]]) -> list[Row]:
    spans = [timeline.between(one, timeline.RELEASED, timeline.REVERTED) for one in instants]
    qemu = statistics.median(run[BARE_QEMU] for run in steps)
    bare = statistics.median(run[BARE_LIBVIRT] for run in steps)
    enrol = statistics.median(run[ENROL] for run in steps)
    whole = qemu + enrol
    return [
        Row(
            name="release to verified clean and leasable",
            what_ran=f"{WHAT}. MachineReleased to MachineReverted: destroy, fresh overlay, restore, judge the process, "
            "attest and enrol the agent, pause",
            unit="s",
            values=tuple(spans),
            reference=LEASABLE,
            parts={f"by hand: {BARE_QEMU}": qemu, f"by hand: {BARE_LIBVIRT}": bare, f"by hand: {ENROL}": enrol},
        ),
        Row(
            name="  ratio to a bare QEMU",
            what_ran="each of those runs over the median of a bare QEMU that loads the same memory image on a fresh "
            "overlay until its agent answers, same run of the benchmark",
            unit="x",
            values=tuple(span / qemu for span in spans),
            reference=LEASABLE_RATIO,
            notes=(
                f"over a bare libvirt restore, {statistics.median(spans) / bare:.2f}x",
                f"over a bare QEMU and enrolling, both behind a ready machine, {statistics.median(spans) / whole:.2f}x",
            ),
        ),
    ]


def _way(steps: Mapping[str, float]) -> dict[str, float]:
    """The steps to the first instruction."""
    return {name: value for name, value in steps.items() if name not in (BARE_QEMU, BARE_LIBVIRT, ENROL)}


async def _by_hand(bed: Bed, runs: int) -> list[dict[str, float]]:
    """The steps of each run, done while nobody else touches the machine."""
    await tasks.machines_ready(bed.origin, 1, timeout_s=READY_TIMEOUT_S)
    ask = await _ask(bed, runs)
    bed.stop("machines", "plugins")
    user = bed.here.state.users.machines
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop
        [str(bed.here.state.python), "-m", by_hand.__name__, user],
        input=ask.encode(),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{bed.here.state.app}:{CHECKOUT}"},
        cwd=CHECKOUT,
        timeout=BY_HAND_TIMEOUT_S,
    )
    if done.returncode:
        raise DeployError(f"the steps by hand failed: {done.stderr.decode(errors='replace')[-2000:]}")
    steps: list[dict[str, float]] = json.loads(done.stdout)
    return steps


async def _ask(bed: Bed, runs: int) -> str:
    state = bed.here.state
    row = await _authority(bed)
    ask = {
        "runs": runs,
        "machine_id": MACHINE,
        "libvirt_uri": libvirt.uri(state),
        "machine_dir": str(state.machines / MACHINE),
        "ca_cert_pem": row["ca_cert_pem"],
        "ca_key_pem": row["ca_key_pem"],
        "enrolment_base64": base64.b64encode(row["enrolment"]).decode(),
        "cert_file": str(pki.cert_file(state, "machines")),
        "key_file": str(pki.key_file(state, "machines")),
        "ca_file": str(pki.ca_file(state)),
        "sample": unique_file(tasks.SAMPLE_BYTES).decode(),
    }
    return json.dumps(ask)


async def _authority(bed: Bed) -> Mapping[str, Any]:
    """Kept in the machines service's schema; nobody else may read it, but this installation is ours."""
    connection = await asyncpg.connect(bed.here.postgres().url(DATABASE_SUPERUSER, DATABASE), timeout=10)
    try:
        row = await connection.fetchrow(
            "SELECT ca_cert_pem, ca_key_pem, enrolment FROM machines.authorities WHERE machine_id = $1", MACHINE
        )
    finally:
        await connection.close(timeout=10)
    if row is None:
        raise DeployError(f"{MACHINE} has no authority")
    return dict(row)
