"""The record of a machine's packets: tcpdump writes what crosses the guest's card, and stops at a bound."""

import asyncio
import os
import struct
import sys
from pathlib import Path

from contracts.blobs import BlobRef
from services.machines.network.children import Account, Child, unprivileged
from services.machines.network.layout import CARD
from services.machines.network.namespace import Namespace, run
from services.machines.network.words import Capture, NetworkFault

PROGRAM = Path("/usr/bin/tcpdump")
_START_TIMEOUT_S = 15.0
_SNAPLEN_BYTES = 65535
_HEADER_BYTES = 24
_RECORD = struct.Struct("<IIII")  # pcap-savefile(5): seconds, microseconds, captured length, length


class Recording:
    """Packets on their way into a file that nobody else can open."""

    def __init__(self, child: Child, path: Path, lease_id: str) -> None:
        self._child = child
        self._lease_id = lease_id
        self._path = path
        self._sealed: Capture | None = None

    @classmethod
    async def start(
        cls, namespace: Namespace, account: Account, path: Path, *, lease_id: str, max_bytes: int
    ) -> "Recording":
        """Every packet from now on is recorded, until the file has `max_bytes`. Raises NetworkFault."""
        target = _fresh(path)
        command = ["/usr/bin/prlimit", f"--fsize={max_bytes}", "--core=0", str(PROGRAM), "-i", CARD, "-n", "-U"]
        command += ["--immediate-mode"]  # else up to a second of packets is lost when it ends
        command += ["-s", str(_SNAPLEN_BYTES), "-w", "-"]
        try:
            child = await Child.start(
                namespace,
                unprivileged(account, *command, capability="net_raw"),
                stdout=target,
                stderr=asyncio.subprocess.PIPE,
            )
        finally:
            os.close(target)
        try:
            await child.says(lambda line: b"listening on" in line, timeout_s=_START_TIMEOUT_S)
        except NetworkFault:
            await child.end()
            raise
        return cls(child, path, lease_id)

    @property
    def is_running(self) -> bool:
        """Whether packets are still recorded; not once the bound was reached."""
        return self._child.is_running

    async def seal(self, blob_dir: Path, owner: Account) -> Capture:
        """The record has ended and is in the object store. Safe to repeat. Raises NetworkFault."""
        if self._sealed is None:
            was_running = self._child.is_running
            await self._child.end(politely=True)
            packets, was_cut = await asyncio.to_thread(trimmed, self._path)
            blob = await _deposited(self._path, blob_dir, owner)
            self._sealed = Capture(
                blob=blob, lease_id=self._lease_id, packets=packets, is_truncated=was_cut or not was_running
            )
        return self._sealed

    async def discard(self) -> None:
        """Nothing of the record is left."""
        await self._child.end()
        self._path.unlink(missing_ok=True)


def _fresh(path: Path) -> int:
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def trimmed(path: Path) -> tuple[int, bool]:
    """How many whole packets the file holds, and whether a last one was cut off by the bound: it is gone then."""
    packets, end = 0, _HEADER_BYTES
    size = path.stat().st_size
    with path.open("rb+") as file:
        while True:  # each turn moves on by a header at least, and the file is bounded
            file.seek(end)
            header = file.read(_RECORD.size)
            if len(header) < _RECORD.size:
                break
            length = _RECORD.unpack(header)[2]
            if end + _RECORD.size + length > size:
                break
            end += _RECORD.size + length
            packets += 1
        file.truncate(min(end, size))
    return packets, end < size


async def _deposited(path: Path, blob_dir: Path, owner: Account) -> BlobRef:
    """The file's bytes are in the object store, put there by the store's own user, who gets them and no path."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchown(source, owner.uid, owner.gid)  # it opens what the descriptor names once more
        command = (sys.executable, "-P", "-m", "services.machines.network.deposit", str(source), str(blob_dir))
        said = await run(*unprivileged(owner, *command), descriptors=(source,))
    finally:
        os.close(source)
    return BlobRef.model_validate_json(said)
