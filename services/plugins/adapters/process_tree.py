"""The first process of a sandbox as this host sees it: what its tree uses, and whether it is gone."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

INFO_MAX_BYTES = 4096
PROCESSES_MAX = 4096


class Init:
    """The init of a process namespace: when it is gone, so is everything in the namespace."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._going = asyncio.create_task(readable(pidfd))

    @property
    def is_gone(self) -> bool:
        """Whether the whole namespace is gone."""
        return self._going.done()

    async def wait_gone(self) -> None:
        """The whole namespace is gone."""
        await asyncio.wait({self._going})

    def kill(self) -> None:
        """The kernel ends it and everything in its namespace, whatever it was about to do."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self, timeout_s: float) -> None:
        """The whole namespace is gone, and is looked at no more. Raises TimeoutError."""
        try:
            await asyncio.wait_for(self._going, timeout_s)
        finally:
            os.close(self._pidfd)

    def memory_bytes(self) -> int:
        """Anonymous and shared memory that the whole tree holds now. Pages shared after a fork are counted twice."""
        return sum(_memory_bytes(pid) for pid in _tree(self.pid))


async def read_init(info_fd: int) -> Init:
    """The init that bubblewrap names on its information pipe, which is closed. Raises ValueError, OSError."""
    try:
        content = b""
        while not content.rstrip().endswith(b"}") and len(content) < INFO_MAX_BYTES:
            await readable(info_fd)
            piece = os.read(info_fd, INFO_MAX_BYTES)
            if not piece:
                break
            content += piece
    finally:
        os.close(info_fd)
    pid = int(json.loads(content)["child-pid"])
    return Init(pid, os.pidfd_open(pid))


async def readable(file_descriptor: int) -> None:
    """There is something to be read, or the end."""
    loop = asyncio.get_running_loop()
    something: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not something.done():
            something.set_result(None)

    loop.add_reader(file_descriptor, wake)
    try:
        await something
    finally:
        loop.remove_reader(file_descriptor)


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        if len(found) > PROCESSES_MAX:
            break
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found.extend(int(child) for child in children.read_text(encoding="ascii").split())
    return found


def _memory_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem") if name in fields)
    return 0
