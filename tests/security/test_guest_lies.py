"""Every lie that we can think of, told over real mutual TLS to a real plugins service, all at the same time."""

import asyncio
import hashlib
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest

from contracts.envelope import Message
from contracts.machines import GuestEndpoint
from contracts.plugins import PluginResultProduced, PluginStageCompleted, PluginStageFailed
from guest.enrolment import make_request
from services.machines.adapters import machine_authority
from tests.conftest import MakeDatabase, MakeVhost
from tests.integration.guest_harness import make_client
from tests.integration.plugins_bench import Bench, connected, open_folder, process, settings
from tests.security.lies import LIES, TRUTH
from tests.security.lying import HONEST, Lie
from tests.security.lying_guest import LOOT, LyingGuest, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]  # every lie is told in the first set-up
MACHINE = "linux-1"
EPOCH = 7
WINDOW_S = 3
STAGES_AT_ONCE = 40
ALL_TOLD_MAX_S = 400.0
MEMORY_MAX_MIB = 500
LOOKED_AT_MAX_BYTES = 4 * 1024 * 1024
SAMPLE = b"#!/bin/sh\n"


@dataclass
class Outcome:
    """What the host said of one task, and the bytes of each result."""

    facts: list[Message] = field(default_factory=list)
    results: dict[str, bytes] = field(default_factory=dict)

    def of(self, kind: type[Any]) -> list[Any]:
        """The facts of the kind."""
        return [fact for fact in self.facts if isinstance(fact, kind)]

    @property
    def end(self) -> PluginStageCompleted | PluginStageFailed:
        """The one fact that ended the stage."""
        [end] = [*self.of(PluginStageCompleted), *self.of(PluginStageFailed)]
        return end  # type: ignore[no-any-return]  # of one of the two kinds

    @property
    def words(self) -> str:
        """Every reason that was given."""
        reasons = [error.reason for error in self.end.errors]
        return "; ".join([*([self.end.reason] if isinstance(self.end, PluginStageFailed) else []), *reasons])


@dataclass
class Told:
    """How it ended for every lie, and how much memory the service had at its peak."""

    outcomes: dict[str, Outcome]
    is_alive: bool
    peak_mib: float


@pytest.fixture(scope="module")
def told(make_database: MakeDatabase, make_vhost: MakeVhost) -> Iterator[Told]:
    """Every lie was told to one process of the service, beside the truth."""
    with open_folder() as folder:
        yield asyncio.run(tell_all(make_vhost(), make_database(), folder))


async def tell_all(amqp_url: str, database_url: str, folder: Path) -> Told:
    """Each lie has a guest, a lease and a task of its own."""
    client = make_client(folder / "client", "malbox host")
    own = settings(
        amqp_url,
        database_url,
        folder,
        guest_client_cert_file=client.cert_file,
        guest_client_key_file=client.key_file,
        stages_at_once=STAGES_AT_ONCE,
    )
    authority = machine_authority.create(MACHINE, client_ca_pem=client.ca_file.read_text(encoding="ascii"))
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(process(own))
        bench = await stack.enter_async_context(connected(own))
        await prepare(database_url, [lie.task_id for lie in (TRUTH, *LIES)])
        for lie in (TRUTH, *LIES):
            guest = LyingGuest(lie.lease_id, EPOCH)
            lie.change(guest)
            identity = machine_authority.lease_identity(MACHINE, lie.lease_id)
            credentials = credentials_of(identity, authority, client.ca_file.read_bytes())
            port = await stack.enter_async_context(serving(guest, credentials, lie.compression))
            endpoint = GuestEndpoint(
                scheme="tcp", host="127.0.0.1", port=port, server_identity=identity, ca_pem=authority.ca_cert_pem
            )
            await order(bench, lie, endpoint)
        outcomes = await all_ended(bench)
        peak_mib = memory_peak_mib(running.pid)
        return Told(outcomes, running.returncode is None, peak_mib)


async def prepare(database_url: str, task_ids: list[str]) -> None:
    """What the sample of each task is, is settled: a sandbox for each would only cost time."""
    connection = await asyncpg.connect(database_url, timeout=10)
    await connection.executemany(
        "INSERT INTO plugins.prepared (task_id, package, platform, name, sha256) "
        "VALUES ($1, 'shell', 'linux', 'a', $2)",
        [(task_id, hashlib.sha256(SAMPLE).hexdigest()) for task_id in task_ids],
    )
    await connection.close()


def credentials_of(identity: str, authority: Any, client_ca_pem: bytes) -> grpc.ServerCredentials:
    """A certificate of the lease, as the machine's authority signs it."""
    key_pem, request_pem = make_request(identity)
    certificate = machine_authority.sign(authority, request_pem, identity=identity, lifetime_s=600)
    return grpc.ssl_server_credentials([(key_pem.encode(), certificate)], client_ca_pem, require_client_auth=True)


async def order(bench: Bench, lie: Lie, endpoint: GuestEndpoint) -> None:
    """The guest stage of the lie's task is ordered."""
    guest = {
        "lease": {"lease_id": lie.lease_id, "machine_id": MACHINE, "epoch": EPOCH, "term": 1},
        "endpoint": endpoint,
        "platform": "linux",
        "hard_deadline_at": datetime.now(UTC) + timedelta(seconds=600),
    }
    request = {"timeout_s": WINDOW_S}
    await bench.order(SAMPLE, "syscalls", task_id=lie.task_id, stage="guest", guest=guest, request=request)


async def all_ended(bench: Bench) -> dict[str, Outcome]:
    """Every task has its end; what was said of each, and what its results hold. Raises TimeoutError."""
    names = {lie.task_id: lie.name for lie in (TRUTH, *LIES)}
    outcomes = {name: Outcome() for name in names.values()}

    def open_tasks() -> set[str]:
        ended = {fact.task_id for kind in (PluginStageCompleted, PluginStageFailed) for fact in bench.said(kind)}
        return {name for task_id, name in names.items() if task_id not in ended}

    try:
        async with asyncio.timeout(ALL_TOLD_MAX_S), bench.news:
            await bench.news.wait_for(lambda: not open_tasks())
    except TimeoutError:
        raise AssertionError(f"never ended: {sorted(open_tasks())}") from None
    for fact in bench.heard:
        if (name := names.get(getattr(fact, "task_id", ""))) is not None:
            outcomes[name].facts.append(fact)
            if isinstance(fact, PluginResultProduced):
                with bench.blobs.local_path(fact.blob.sha256).open("rb") as content:
                    outcomes[name].results[fact.name] = content.read(LOOKED_AT_MAX_BYTES)
    return outcomes


def memory_peak_mib(pid: int) -> float:
    """The most memory that the process ever had resident, as the kernel counted (proc(5), VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    [kib] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kib) / 1024


@pytest.mark.promise("P28", "P30", "P31")
def test_there_are_sixty_lies_and_each_is_another() -> None:
    """Sixty at least, each with a name of its own."""
    assert len({lie.name for lie in LIES}) == len(LIES) >= 60


@pytest.mark.promise("P28", "P30", "P31", "P32", "C1")
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_a_lie_is_contained(lie: Lie, told: Told) -> None:
    """The stage ends once, as it should, for a reason in words that can be shown; what came before is kept."""
    outcome = told.outcomes[lie.name]
    end = outcome.end
    how = "completed" if isinstance(end, PluginStageCompleted) else "retryable" if end.is_retryable else "failed"
    assert re.fullmatch(lie.ends.how, how), (how, outcome.words)
    assert re.search(lie.ends.words, outcome.words), outcome.words
    assert outcome.words.isprintable()
    assert len(outcome.words) < 20_000
    if lie.ends.keeps_evidence:
        assert outcome.results["syscalls"].startswith(f"evidence of {lie.lease_id}\n".encode())


@pytest.mark.promise("P29")
def test_nothing_of_a_lie_lands_in_another_task(told: Told) -> None:
    """Evidence names its lease; no task has that of another lease, and every result is one of its own task's."""
    for lie in (TRUTH, *LIES):
        outcome = told.outcomes[lie.name]
        marks = {mark for content in outcome.results.values() for mark in re.findall(rb"evidence of (\w+)", content)}
        assert marks <= {lie.lease_id.encode()}, lie.name
        assert set(outcome.end.result_ids) == {fact.result_id for fact in outcome.of(PluginResultProduced)}, lie.name


@pytest.mark.promise("P28", "P30", "P31")
def test_the_truth_is_believed_beside_all_the_lies(told: Told) -> None:
    """The honest guest's stage completes without an error, with its evidence and its file."""
    outcome = told.outcomes[HONEST]
    assert (type(outcome.end), outcome.words) == (PluginStageCompleted, "")
    assert outcome.results["syscalls"] == f"evidence of {TRUTH.lease_id}\n".encode()
    assert outcome.results["dropped/000"] == LOOT


@pytest.mark.promise("P26", "P30")
def test_all_the_lies_at_once_neither_end_the_service_nor_fill_its_memory(told: Told) -> None:
    """Two bombs of 200 MiB and three streams without end among them."""
    assert told.is_alive
    assert told.peak_mib < MEMORY_MAX_MIB
