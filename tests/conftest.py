"""Servers for tests: real ones, private to the run, each test with a database or a virtual host of its own.

A container engine is used where one is reachable (MALBOX_TEST_SERVERS=private says not to), else the installed
servers are started the way `malbox up` starts them.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings

from deploy.local.state import SERVICES
from tests.servers import Broker, Database, broker_server, database_server
from tests.tiers import TierCount

MakeDatabase = Callable[[], str]
MakeVhost = Callable[[], str]


STATEMENT_MAX_S = 120.0
"""A database is dropped after a checkpoint, behind whatever else the disk has to write."""
OF_NO_LONG_LIFE = ("ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")

settings.register_profile("malbox", deadline=None)  # how fast a machine is decides no test
settings.load_profile("malbox")


def pytest_configure(config: pytest.Config) -> None:
    """The run ends with a count per tier, and a skip where nothing may be skipped is a failure."""
    config.pluginmanager.register(TierCount(), "malbox-tiers")


def pytest_unconfigure() -> None:
    """The run ends with its summary: what LIEF says of its own objects at the end of a process is of no use here."""
    if lief := sys.modules.get("lief"):
        lief.disable_leak_warning()


@pytest.fixture(scope="session")
def database_server_of_run() -> Iterator[Database]:
    """One PostgreSQL for the whole run. It need not outlive a power cut, and no vacuum holds transactions open."""
    with database_server() as server:
        asyncio.run(execute(server.url, *OF_NO_LONG_LIFE))
        yield server


@pytest.fixture(scope="session")
def broker_of_run() -> Iterator[Broker]:
    """One RabbitMQ for the whole run."""
    with broker_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(database_server_of_run: Database) -> str:
    """The superuser's URL of the run's PostgreSQL (database `postgres`)."""
    return database_server_of_run.url


@pytest.fixture(scope="session")
def make_database(postgres_url: str) -> MakeDatabase:
    """Call it for the superuser's URL of a new database that has an empty schema for each service.

    Not to be called inside a running event loop: use `database_url` there.
    """
    return lambda: asyncio.run(create_database(postgres_url))


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """The superuser's URL of a database of the test's own, with an empty schema for each service."""
    url = await create_database(postgres_url)
    yield url
    await drop_database(postgres_url, url)


@pytest.fixture(scope="session")
def make_vhost(broker_of_run: Broker) -> MakeVhost:
    """Call it for the administrator's URL of a new, empty virtual host of the run's RabbitMQ."""
    return broker_of_run.make_vhost


@pytest.fixture
def amqp_url(broker_of_run: Broker) -> Iterator[str]:
    """The administrator's URL of a virtual host of the test's own."""
    url = broker_of_run.make_vhost()
    yield url
    broker_of_run.drop_vhost(url)


async def create_database(server_url: str) -> str:
    """A new database with an empty schema for each service exists; its URL."""
    name = f"t_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name} TEMPLATE template0")
    url = f"{server_url.rpartition('/')[0]}/{name}"
    await execute(url, *(f"CREATE SCHEMA {service}" for service in SERVICES))
    return url


async def drop_database(server_url: str, url: str) -> None:
    """The database is gone, whoever was still connected."""
    await execute(server_url, f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


async def execute(url: str, *statements: str) -> None:
    """The statements were executed, each on its own."""
    connection = await asyncpg.connect(url, timeout=STATEMENT_MAX_S)
    try:
        for statement in statements:
            await connection.execute(statement, timeout=STATEMENT_MAX_S)
    finally:
        await connection.close(timeout=STATEMENT_MAX_S)


@pytest.fixture
def figures_shown(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """What a proof says as it goes is seen in its short form too."""
    with capsys.disabled():
        yield
