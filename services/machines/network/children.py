"""Processes that serve one namespace. None has privileges to speak of, and none outlives the helper."""

import asyncio
import pwd
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from services.machines.network.namespace import ENVIRONMENT, Namespace
from services.machines.network.words import NetworkFault

_SETPRIV = "/usr/bin/setpriv"
_END_TIMEOUT_S = 5.0
_LINE_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Account:
    """A user of the system, by number."""

    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> "Account":
        """Raises NetworkFault when there is no such user."""
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise NetworkFault(f"there is no user {name}: run deploy/bootstrap.sh as root") from None
        return cls(entry.pw_uid, entry.pw_gid)


def unprivileged(account: Account, *command: str, capability: str = "") -> list[str]:
    """The command as that user, with at most one capability, ended with the helper."""
    kept = ["--inh-caps", f"-all,+{capability}", "--ambient-caps", f"+{capability}"] if capability else []
    return [
        *(_SETPRIV, "--reuid", str(account.uid), "--regid", str(account.gid), "--clear-groups"),
        *kept,
        *("--no-new-privs", "--pdeathsig", "KILL", "--"),
        *command,
    ]


class Child:
    """One process inside a namespace."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls,
        namespace: Namespace,
        command: Sequence[str],
        *,
        descriptors: Sequence[int] = (),
        stdout: int = asyncio.subprocess.PIPE,
        stderr: int = asyncio.subprocess.DEVNULL,
    ) -> "Child":
        """The process runs. Its standard input is open until it is ended."""
        process = await asyncio.create_subprocess_exec(
            *namespace.argv(command),
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(namespace.descriptor, *descriptors),
            env=ENVIRONMENT,
            limit=_LINE_MAX_BYTES,
        )
        return cls(process)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    @property
    def output(self) -> asyncio.StreamReader:
        """What it writes: to standard output, or to standard error where that alone is kept."""
        stream = self._process.stdout or self._process.stderr
        assert stream is not None  # noqa: S101 - each child is started with one of them
        return stream

    async def says(self, is_enough: Callable[[bytes], bool], *, timeout_s: float) -> None:
        """A line came that is enough. Raises NetworkFault when the process ends first, or takes too long."""
        last = b""
        try:
            async with asyncio.timeout(timeout_s):
                while line := await self.output.readline():
                    last = line
                    if is_enough(line):
                        return
        except (TimeoutError, ValueError) as error:
            raise NetworkFault(f"a process of the network said nothing that helps within {timeout_s:.0f} s") from error
        raise NetworkFault(f"a process of the network ended: {last.decode(errors='replace').strip()[:300]}")

    def follow(self, heard: Callable[[bytes], None]) -> "asyncio.Task[None]":
        """Each further line is heard, until the process ends."""

        async def lines() -> None:
            while line := await self.output.readline():
                heard(line)

        return asyncio.create_task(lines())

    async def end(self, *, politely: bool = False) -> None:
        """The process has ended; asked first where it has something to finish."""
        with suppress(ProcessLookupError):
            if politely and self.is_running:
                self._process.terminate()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_END_TIMEOUT_S):
                        await self._process.wait()
            if self.is_running:
                self._process.kill()
        await self._process.wait()
