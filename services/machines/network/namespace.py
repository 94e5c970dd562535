"""Network namespaces without a name: each lives as long as this process holds it, or something runs in it.

Whatever ends this process thereby ends every namespace with its cards, rules and links: the kernel cleans up, and
nothing is left for anybody to find.
"""

import asyncio
import ctypes
import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from services.machines.network.words import NetworkFault

IP = "/usr/sbin/ip"
NFT = "/usr/sbin/nft"
SYSCTL = "/usr/sbin/sysctl"
_NSENTER = "/usr/bin/nsenter"
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_COMMAND_TIMEOUT_S = 15.0
_OUTPUT_MAX_BYTES = 4 * 1024 * 1024
_SAID_MAX_CHARS = 500

Outcome = TypeVar("Outcome")

ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    **{
        name: os.environ[name]
        for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "MALBOX_STATE")
        if name in os.environ
    },
}
"""What every process is started with; our own find their source by it."""


class Namespace:
    """One network namespace."""

    def __init__(self, descriptor: int | None = None) -> None:
        """A fresh one, with nothing but a loopback that is down; or the one that the descriptor refers to.

        Raises NetworkFault when the kernel makes none.
        """
        self._descriptor = _in_fresh_thread(_unshared) if descriptor is None else descriptor

    @classmethod
    def at(cls, path: str) -> "Namespace":
        """The namespace that stands at a path of /proc. Raises OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    @property
    def descriptor(self) -> int:
        """Refers to the namespace, for setns."""
        return self._descriptor

    def close(self) -> None:
        """The namespace is gone once nothing runs in it. Safe to repeat."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def argv(self, command: Sequence[str]) -> list[str]:
        """The command, run inside. Whoever starts it hands `descriptor` on."""
        return [_NSENTER, f"--net=/proc/self/fd/{self._descriptor}", "--", *command]

    async def run(self, *command: str, text: str = "") -> str:
        """What the command says, run inside. Raises NetworkFault with its complaint."""
        if self._descriptor < 0:
            raise NetworkFault("the namespace is gone")
        return await run(*self.argv(command), text=text, descriptors=(self._descriptor,))

    async def load(self, rules: str) -> None:
        """The rules are those, all of them or, on NetworkFault, as before."""
        await self.run(NFT, "-f", "-", text=rules)

    async def rules(self) -> list[Any]:
        """Every rule that the namespace has, as nft lists them, without what changes by itself."""
        return lasting(await self.listed())

    async def listed(self) -> list[Any]:
        """Every rule and counter as nft lists them."""
        listing: list[Any] = json.loads(await self.run(NFT, "-j", "list", "ruleset"))["nftables"]
        return listing

    async def interfaces(self) -> dict[str, list[str]]:
        """The addresses of each interface, IPv6 too where there is any; and the word down where a card is."""
        shown = json.loads(await self.run(IP, "-j", "address", "show"))
        return {
            link["ifname"]: sorted(f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"])
            + ["down"] * (link["ifname"] != "lo" and "UP" not in link["flags"])
            for link in shown
        }

    async def routes(self) -> list[str]:
        """Each route of the main table: where to, and through what."""
        shown = json.loads(await self.run(IP, "-j", "route", "show"))
        return sorted(f"{one['dst']} {one.get('gateway', '-')} {one['dev']}" for one in shown)

    async def setting(self, name: str) -> str:
        """The value of a network setting of the kernel."""
        return (await self.run(SYSCTL, "-n", name)).strip()


async def run(*command: str, text: str = "", descriptors: Sequence[int] = ()) -> str:
    """What the command says. Raises NetworkFault with its complaint, or when it takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=tuple(descriptors),
        env=ENVIRONMENT,
    )
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT_S):
            out, err = await process.communicate(text.encode())
    except TimeoutError as error:
        raise NetworkFault(f"{_name(command)} took longer than {_COMMAND_TIMEOUT_S:.0f} s") from error
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    if process.returncode or len(out) > _OUTPUT_MAX_BYTES:
        raise NetworkFault(f"{_name(command)}: {err.decode(errors='replace').strip()[:_SAID_MAX_CHARS]}")
    return out.decode()


def lasting(listed: list[Any]) -> list[Any]:
    """A listing without what changes by itself."""
    return [_lasting(entry) for entry in listed if "metainfo" not in entry]


def _name(command: Sequence[str]) -> str:
    words = command[3:] if command[0] == _NSENTER else command
    return " ".join(words)[:_SAID_MAX_CHARS]


def _lasting(entry: Any) -> Any:
    """The entry without handles and without what counters stand at."""
    if isinstance(entry, list):
        return [_lasting(one) for one in entry]
    if not isinstance(entry, dict):
        return entry
    return {key: _lasting(value) for key, value in entry.items() if key not in {"handle", "packets", "bytes"}}


def in_namespace(descriptor: int, work: Callable[[], Outcome]) -> Outcome:
    """What `work` returns, done inside the namespace; sockets that it makes stay there. Raises NetworkFault."""

    def inside() -> Outcome:
        _must(ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET))
        return work()

    return _in_fresh_thread(inside)


def _unshared() -> int:
    _must(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _must(outcome: int) -> None:
    if outcome != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _in_fresh_thread(work: Callable[[], Outcome]) -> Outcome:
    """A namespace is a thread's: the process's others stay where they are, and the thread is not used again."""
    outcome: list[Outcome] = []
    failure: list[OSError] = []

    def inside() -> None:
        try:
            outcome.append(work())
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if failure:
        raise NetworkFault(f"the kernel refused a network namespace: {failure[0].strerror}") from failure[0]
    return outcome[0]
