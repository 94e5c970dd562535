"""Starts the servers that tests need: containers where an engine is reachable, else private instances."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from deploy.local import accounts, ports, processes
from deploy.local.installation import Installation
from deploy.local.ports import LOOPBACK
from deploy.local.secrets import BROKER_ADMIN, DATABASE_SUPERUSER
from deploy.local.state import State

SERVERS_VARIABLE = "MALBOX_TEST_SERVERS"
POSTGRES_IMAGE = "postgres:15"
RABBITMQ_IMAGE = "rabbitmq:3.10-management"
MANAGEMENT_CONTAINER_PORT = 15672
MANAGEMENT_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Database:
    """A PostgreSQL server and how its superuser reaches it."""

    url: str


@dataclass(frozen=True)
class Broker:
    """A RabbitMQ server, its administrator's URL without a virtual host, and its management API."""

    url: str
    management_url: str

    def make_vhost(self) -> str:
        """A new, empty virtual host; the administrator's URL of it."""
        name = f"t-{uuid4().hex}"
        self._call("PUT", f"/api/vhosts/{name}")
        user = urlsplit(self.url).username
        body = {"configure": ".*", "write": ".*", "read": ".*"}
        self._call("PUT", f"/api/permissions/{name}/{user}", body)
        return f"{self.url}/{name}"

    def drop_vhost(self, url: str) -> None:
        """The virtual host is gone with everything in it."""
        self._call("DELETE", f"/api/vhosts/{url.rpartition('/')[2]}")

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> None:
        user = urlsplit(self.url)
        credentials = (user.username or "", user.password or "")
        with httpx.Client(base_url=self.management_url, auth=credentials, timeout=MANAGEMENT_TIMEOUT_S) as client:
            client.request(method, path, json=body).raise_for_status()


@contextlib.contextmanager
def installation() -> Iterator[Installation]:
    """An empty, prepared installation in a temporary directory; nothing of it is left running or lying about."""
    accounts.ensure()
    root = Path(tempfile.mkdtemp(prefix="mbx-", dir="/tmp"))
    state = State(root)
    try:
        here, _ = Installation.prepare(state)
        yield here
    finally:
        for identity in processes.leftovers(state):
            processes.end(identity, signal.SIGKILL, 5)
        shutil.rmtree(root)


@contextlib.contextmanager
def database_server() -> Iterator[Database]:
    """A PostgreSQL server for as long as the block runs."""
    if container_engine_is_reachable():
        yield from _database_container()
        return
    with installation() as here:
        server = here.postgres()
        server.start()
        try:
            yield Database(server.url(DATABASE_SUPERUSER, "postgres"))
        finally:
            server.stop()


@contextlib.contextmanager
def broker_server() -> Iterator[Broker]:
    """A RabbitMQ server for as long as the block runs."""
    if container_engine_is_reachable():
        yield from _broker_container()
        return
    with installation() as here:
        management_port = ports.choose(here.state, "management", avoid=set())
        server = here.rabbitmq(management_port)
        server.start()  # ended by `installation`: a drained shutdown of something thrown away is five lost seconds
        url = f"amqp://{BROKER_ADMIN}:{here.secrets.broker[BROKER_ADMIN]}@{LOOPBACK}:{here.ports['amqp']}"
        yield Broker(url, f"http://{LOOPBACK}:{management_port}")


def container_engine_is_reachable() -> bool:
    """Whether testcontainers could start something here, and nobody said to use private servers."""
    if os.environ.get(SERVERS_VARIABLE) == "private":
        return False
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return False
    import docker  # noqa: PLC0415 - slow to import, and of no use without an engine

    client = None
    try:
        client = docker.from_env(timeout=3)
        client.ping()
    except docker.errors.DockerException:
        return False
    finally:
        if client is not None:
            client.close()
    return True


def _database_container() -> Iterator[Database]:
    from testcontainers.postgres import PostgresContainer  # noqa: PLC0415 - only where an engine runs

    with PostgresContainer(POSTGRES_IMAGE, dbname="postgres", driver=None) as server:
        yield Database(server.get_connection_url())


def _broker_container() -> Iterator[Broker]:
    from testcontainers.rabbitmq import RabbitMqContainer  # noqa: PLC0415 - only where an engine runs

    with RabbitMqContainer(RABBITMQ_IMAGE) as server:
        host, port = server.get_container_host_ip(), server.get_exposed_port(server.port)
        management = server.get_exposed_port(MANAGEMENT_CONTAINER_PORT)
        yield Broker(f"amqp://{server.username}:{server.password}@{host}:{port}", f"http://{host}:{management}")
