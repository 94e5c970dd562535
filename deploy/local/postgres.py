"""A private PostgreSQL: one database, and for each service one role that owns one schema and sees nothing else."""

import asyncio
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from deploy.local import processes
from deploy.local.ports import LOOPBACK
from deploy.local.secrets import DATABASE_SUPERUSER
from deploy.local.state import SERVICES, DeployError, State, write_private

NAME = "postgres"
DATABASE = "malbox"
BINARIES = Path("/usr/lib/postgresql")
INITDB_TIMEOUT_S = 120.0
READY_TIMEOUT_S = 240.0
CONNECTIONS_MAX = 100
_SERVER, _ANOTHER = "server", "another"


@dataclass(frozen=True)
class Postgres:
    """The server of one installation."""

    state: State
    port: int
    passwords: dict[str, str]

    @property
    def data(self) -> Path:
        """The cluster's files."""
        return self.state.postgres / "data"

    def url(self, user: str, database: str = DATABASE) -> str:
        """How a user connects."""
        return f"postgresql://{user}:{self.passwords[user]}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> processes.Identity:
        """The server accepts connections; a running one is used as it is. Raises DeployError."""
        with processes.only_starter(self.state, NAME):
            running = processes.started(self.state, NAME)
            if running is None:
                self._initialise()
                processes.end_orphans(self.state, NAME)
                self._forget_recycled_lock(self.data / "postmaster.pid")
                self._forget_recycled_lock(self.state.postgres / f".s.PGSQL.{self.port}.lock")
                self._end_what_a_killed_one_left()
                running = processes.spawn(self.state, self._command())
        self._await_ready(running)
        return running

    def set_up(self) -> None:
        """Database, roles, schemas and rights are as they should be. Raises DeployError."""
        try:
            asyncio.run(self._set_up())
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DeployError(f"PostgreSQL could not be set up: {error}; its log: {self._log()}") from error

    def stop(self) -> bool:
        """The server is down, its data safe (fast shutdown). Returns whether it ran."""
        return processes.stop(self.state, NAME, signal.SIGINT)

    def _initialise(self) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        password_file = self.state.postgres / "password"
        user = self.state.users.postgres
        write_private(password_file, self.passwords[DATABASE_SUPERUSER], user)
        fresh = self.data.with_name("data.new")
        remove_tree(fresh)
        argv = [
            str(binary("initdb")),
            f"--pgdata={fresh}",
            f"--username={DATABASE_SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--data-checksums",
        ]
        run_as(user, argv, self.state.postgres, INITDB_TIMEOUT_S)
        fresh.rename(self.data)
        password_file.unlink()

    def _forget_recycled_lock(self, lock: Path) -> None:
        """A lock file that a crash left must not keep the server out for whoever bears that number now.

        That may be another process, or the dead server itself while nobody has reaped it.
        """
        if self._holder(lock) == _ANOTHER:
            lock.unlink()

    def _holder(self, lock: Path) -> str | None:
        """Who has the number in a lock file: a server of this cluster, another process, or nobody."""
        try:
            pid = int(lock.read_text(encoding="utf-8").split()[0])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            return None
        return _SERVER if os.fsencode(self.data) in words else _ANOTHER

    def _end_what_a_killed_one_left(self) -> None:
        """Each process of a server is a session of its own, and ends when it next looks whether the first one lives.

        Until then it holds the shared memory, beside which no new server starts. Where a server has the lock, which is
        not ours then, its processes are left alone.
        """
        lock = self.data / "postmaster.pid"
        if self._holder(lock) == _SERVER:
            return
        for process in processes.working_in(self.data, b"postgres: "):
            processes.end(process, signal.SIGKILL, processes.KILL_TIMEOUT_S)

    def _command(self) -> processes.Command:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": str(self.state.postgres),
            "max_connections": str(CONNECTIONS_MAX),
            "password_encryption": "scram-sha-256",
            "shared_buffers": "64MB",
            "jit": "off",
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        argv = [str(binary("postgres")), "-D", str(self.data)]
        for key, value in settings.items():
            argv += ["-c", f"{key}={value}"]
        env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.state.postgres)}
        return processes.Command(NAME, argv, self.state.users.postgres, env, self.state.postgres)

    def _await_ready(self, running: processes.Identity) -> None:
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        while True:
            reason = asyncio.run(self._probe())
            if reason is None:
                return
            if not running.is_running():
                processes.reap(running.pid)
                raise DeployError(f"PostgreSQL ended at once; its log says:\n{processes.log_tail(self.state, NAME)}")
            if time.monotonic() > give_up_at:
                raise DeployError(f"PostgreSQL is not ready after {READY_TIMEOUT_S:.0f} s ({reason}): {self._log()}")
            time.sleep(0.05)

    async def _probe(self) -> str | None:
        try:
            connection = await asyncpg.connect(self.url(DATABASE_SUPERUSER, "postgres"), timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            return str(error) or type(error).__name__
        await connection.close(timeout=5)
        return None

    async def _set_up(self) -> None:
        connection = await asyncpg.connect(self.url(DATABASE_SUPERUSER, "postgres"), timeout=10)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close(timeout=5)
        connection = await asyncpg.connect(self.url(DATABASE_SUPERUSER), timeout=10)
        try:
            await grant_schemas(connection, DATABASE, {name: self.passwords[name] for name in SERVICES})
        finally:
            await connection.close(timeout=5)

    def _log(self) -> Path:
        return self.state.log / f"{NAME}.log"


async def grant_schemas(
    connection: "asyncpg.Connection[asyncpg.Record]", database: str, passwords: dict[str, str]
) -> None:
    """Each role named may connect to `database`, owns the schema of its name, and has no other right there."""
    statements = [f"REVOKE ALL ON DATABASE {database} FROM PUBLIC", "REVOKE ALL ON SCHEMA public FROM PUBLIC"]
    for role, password in passwords.items():
        exists = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role)
        verb = "ALTER" if exists else "CREATE"
        statements += [
            f"{verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD '{password}'",
            f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {role}",
            f"CREATE SCHEMA IF NOT EXISTS {role} AUTHORIZATION {role}",
            f"ALTER ROLE {role} IN DATABASE {database} SET search_path = {role}",
        ]
    async with connection.transaction():
        for statement in statements:
            await connection.execute(statement, timeout=30)


def binary(name: str) -> Path:
    """The newest installed server program of that name. Raises DeployError."""
    found = sorted(BINARIES.glob(f"*/bin/{name}"), key=lambda path: float(path.parent.parent.name))
    if not found:
        raise DeployError(f"PostgreSQL's {name} is not installed: run deploy/bootstrap.sh as root")
    return found[-1]


def run_as(user: str, argv: list[str], cwd: Path, timeout_s: float) -> None:
    """A short command has succeeded as `user`. Raises DeployError with what it said."""
    try:
        subprocess.run(
            argv,
            user=user if os.geteuid() == 0 else None,
            group=user if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            cwd=cwd,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": str(cwd)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=timeout_s,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip() or error.stdout.decode(errors="replace").strip()
        raise DeployError(f"{argv[0]} failed: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeployError(f"{argv[0]} could not be run: {error}") from error


def remove_tree(path: Path) -> None:
    """Nothing is left of a directory that an interrupted run may have left half made."""
    if not path.exists():
        return
    for inner in sorted(path.rglob("*"), reverse=True):
        if inner.is_dir() and not inner.is_symlink():
            inner.rmdir()
        else:
            inner.unlink()
    path.rmdir()
