"""Private servers really start, are used again, recover, and leave nothing behind."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

import aio_pika
import asyncpg
import pytest

from deploy.local import nginx, parts, processes, rabbitmq
from deploy.local.installation import Installation
from deploy.local.ports import LOOPBACK
from deploy.local.secrets import INTEGRATOR
from tests.servers import installation

pytestmark = pytest.mark.integration
DENIED = aio_pika.exceptions.AMQPError


@pytest.fixture(scope="module")
def here() -> Iterator[Installation]:
    """An installation whose PostgreSQL, RabbitMQ and gateway run."""
    with installation() as made:
        made.postgres().start()
        made.postgres().set_up()
        made.rabbitmq().start()
        made.nginx().start()
        yield made


def test_a_second_start_uses_what_runs(here: Installation) -> None:
    """Nothing is started twice."""
    names = ("postgres", rabbitmq.NAME, rabbitmq.MAPPER, nginx.NAME)
    before = [processes.started(here.state, name) for name in names]
    here.postgres().start()
    here.rabbitmq().start()
    here.nginx().start()
    assert None not in before
    assert [processes.started(here.state, name) for name in names] == before


@pytest.mark.promise("P46")
async def test_a_service_sees_its_own_schema_only(here: Installation) -> None:
    """Its role may work in its schema and may not even look into another's."""
    connection = await asyncpg.connect(here.postgres().url("intake"), timeout=10)
    try:
        await connection.execute("CREATE TABLE intake.mine (x int)")
        for statement in (
            "CREATE TABLE scheduler.theirs (x int)",
            "CREATE TABLE public.everybodys (x int)",
            "SELECT passwd FROM pg_shadow",
            "CREATE ROLE another",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.promise("P46")
async def test_a_service_cannot_state_the_facts_of_another(here: Installation) -> None:
    """The broker lets results say what is its own, and refuses what is the scheduler's."""
    async with await aio_pika.connect(here.rabbitmq().url("results"), timeout=10) as connection:
        channel = await connection.channel()
        facts = await channel.get_exchange("malbox.facts", ensure=False)
        await facts.publish(aio_pika.Message(b"{}"), "results.report.ready.v1", timeout=10)
        with pytest.raises(DENIED):
            await facts.publish(aio_pika.Message(b"{}"), "scheduler.task.completed.v1", timeout=10)


@pytest.mark.promise("P46")
async def test_an_integrator_hears_facts_and_says_nothing(here: Installation) -> None:
    """It may bind a queue of its own to the public facts, and may neither publish one nor hear what is not public."""
    async with await aio_pika.connect(here.rabbitmq().url(INTEGRATOR), timeout=10) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("integrator.ears", exclusive=True)
        await queue.bind("malbox.facts", "*.*.*.*", timeout=10)
        for key in ("#", "plugins.#", "plugins.lease.beat.v1.private", "*.*.*.*.*"):
            with pytest.raises(DENIED):
                await queue.bind("malbox.facts", key, timeout=10)
            channel = await connection.channel()
            queue = await channel.get_queue("integrator.ears", ensure=False)
        facts = await channel.get_exchange("malbox.facts", ensure=False)
        with pytest.raises(DENIED):
            await facts.publish(aio_pika.Message(b"{}"), "scheduler.task.completed.v1", timeout=10)


def test_the_servers_listen_on_loopback_only(here: Installation) -> None:
    """No port of the installation answers on another address of this host."""
    for name in ("postgres", "amqp", "dist", "epmd", "gateway"):
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((LOOPBACK, here.ports[name])) == 0, name
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex(("127.0.0.2", here.ports[name])) != 0, name


def test_the_gateway_answers_with_problems(here: Installation) -> None:
    """While no service runs, it says so in the services' own words; a foreign host name is refused."""
    for path, host, status, code in (
        ("/nothing", "localhost", 404, "not_found"),
        ("/api/v1/tasks", "localhost", 502, "service_unavailable"),
        ("/api/v1/tasks", "evil.example", 421, "wrong_host"),
    ):
        connection = HTTPConnection(LOOPBACK, here.ports["gateway"], timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": host})
            response = connection.getresponse()
            assert (response.status, code in response.read().decode()) == (status, True)
            assert response.headers["Content-Type"] == "application/problem+json"


def test_a_killed_database_whose_process_does_not_end_is_started_again(here: Installation) -> None:
    """One of its processes is stopped, and so never sees that the first one died: the shared memory stays in use."""
    server = processes.started(here.state, "postgres")
    assert server is not None
    [stopped, *_] = processes.working_in(here.postgres().data, b"postgres: checkpointer")
    os.kill(stopped.pid, signal.SIGSTOP)
    processes.end(server, signal.SIGKILL, 10)
    assert stopped.is_running()
    assert here.postgres().start() != server
    assert not stopped.is_running()


def test_a_gateway_killed_in_the_middle_starts_again(here: Installation) -> None:
    """Its orphaned worker held the port; the next start ends it first."""
    master = processes.started(here.state, nginx.NAME)
    assert master is not None
    os.kill(master.pid, signal.SIGKILL)
    wait_until(lambda: not master.is_running())
    again = here.nginx().start()
    assert again != master
    assert nginx.accepts(here.ports["gateway"])


def test_a_database_killed_in_the_middle_starts_again(here: Installation) -> None:
    """What was committed is there."""
    server = processes.started(here.state, "postgres")
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running())
    processes.reap(server.pid)
    wait_until(lambda: not processes.session_members(server.pid))
    part = next(part for part in parts.servers(here) if part.name == "postgres")
    assert part.start() != server


def test_a_gateway_that_nobody_remembers_is_found_by_its_title_and_place(here: Installation) -> None:
    """It overwrites its environment, and with it the mark of the installation."""
    gateway = here.nginx().start()
    assert gateway.pid in {found.pid for found in processes.leftovers(here.state)}
    here.nginx().stop()
    assert gateway.pid not in {found.pid for found in processes.leftovers(here.state)}
    here.nginx().start()


def test_stopping_leaves_no_process() -> None:
    """Servers of an installation that were stopped are gone, port mapper included."""
    with installation() as made:
        made.postgres().start()
        made.rabbitmq().start()
        assert {name for name in ("postgres", "rabbitmq", "epmd") if processes.started(made.state, name)} == {
            "postgres",
            "rabbitmq",
            "epmd",
        }
        stoppers = [threading.Thread(target=server.stop) for server in (made.postgres(), made.rabbitmq())]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join(timeout=60)
        assert processes.leftovers(made.state) == []


def wait_until(is_true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """The predicate became true in time."""
    give_up_at = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
