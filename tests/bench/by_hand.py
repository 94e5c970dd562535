"""The steps of a real guest by hand: bare QEMU, bare libvirt and bare gRPC calls, timed one by one.

    python -m tests.bench.by_hand USER < task.json > steps.json

It runs as the user that owns the machines, while the machines and plugins services are stopped: it takes the warm
snapshot that they made. No bus, no store, no fence, no judging of the hardened profile: what is left is what it takes.
"""

import asyncio
import base64
import contextlib
import json
import os
import pwd
import shlex
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import libvirt
from pydantic import BaseModel, ConfigDict

from contracts.ids import new
from contracts.machines import GuestEndpoint, LeaseRef
from deploy.local.state import group_ids_of
from services.machines.adapters import libvirt_domains as domains
from services.machines.adapters.domain_xml import succeed
from services.machines.adapters.guest_agent import GrpcEnroller
from services.machines.adapters.machine_files import DISK, ENROLMENT, MEMORY
from services.machines.ports import Authority, GuestAddress
from services.plugins.adapters.guest_agent import GrpcGuestConnector

HOST = "127.0.0.1"
ANSWER_TIMEOUT_S = 30.0
LEASE_LIFETIME_S = 600
END_TIMEOUT_S = 15.0
NUDGE_S = 0.02
LOAD_TIMEOUT_S = 30.0
MONITOR_BYTES = 64 * 1024
# The header of libvirt's save image (qemu_saveimage.h, virQEMUSaveHeader): magic, then nineteen 32-bit numbers, of
# which the second is the length of the XML that follows; then QEMU's migration stream.
_HEADER = struct.Struct("16s19I")
_MAGIC = b"LibvirtQemudSave"
_XML_LENGTH_AT = 2
_STRIPPED = ("-sandbox", "-incoming", "-add-fd")
_HELD_BY_LIBVIRT = ("masterKey0", "charmonitor")
_BARE = ("-no-user-config", "-nodefaults", "-no-shutdown", "-no-reboot", "-no-hpet", "-no-acpi", "-nographic")


class Ask(BaseModel):
    """What is to be done."""

    model_config = ConfigDict(frozen=True)

    runs: int
    machine_id: str
    libvirt_uri: str
    machine_dir: Path
    ca_cert_pem: str
    ca_key_pem: str
    enrolment_base64: str
    cert_file: Path
    key_file: Path
    ca_file: Path
    sample: str


@dataclass
class Steps:
    """Seconds of each step of one run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """The block's time is kept under the name."""
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


class ByHand:
    """The warm snapshot of one machine, used without Malbox."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._warm = ask.machine_dir / "warm"
        self._place = ask.machine_dir / "life-by-hand"
        self._connection: Any = libvirt.open(ask.libvirt_uri)
        self._authority = Authority(ask.ca_cert_pem, ask.ca_key_pem, base64.b64decode(ask.enrolment_base64))
        self._enroller = GrpcEnroller(
            client_cert_file=ask.cert_file, client_key_file=ask.key_file, client_ca_file=ask.ca_file
        )
        self._connector = GrpcGuestConnector(client_cert_file=ask.cert_file, client_key_file=ask.key_file)

    async def run(self) -> list[dict[str, float]]:
        """Each run: a bare QEMU from the snapshot, the same by libvirt, then the way to the first instruction."""
        done = []
        for _ in range(self._ask.runs):
            steps = Steps()
            await self._bare_qemu(steps)
            address, lease, identity = await self._libvirt(steps)
            await self._first_instruction(steps, address, lease, identity)
            done.append(steps.seconds)
        domains.gone(self._connection, self._ask.machine_id)
        return done

    async def _bare_qemu(self, steps: Steps) -> None:
        """A fresh QEMU process on a fresh overlay has loaded the memory image, and its agent answers."""
        domains.gone(self._connection, self._ask.machine_id)
        port = domains._free_port()
        with steps.timed("bare QEMU: overlay + start + load + agent answers"):
            argv = self._argv(self._next_xml(port))
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            try:
                await asyncio.wait_for(_running(process), LOAD_TIMEOUT_S)
                await self._answers(port)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await asyncio.wait_for(process.wait(), END_TIMEOUT_S)

    async def _libvirt(self, steps: Steps) -> tuple[GuestAddress, LeaseRef, str]:
        """The same by libvirt, and enrolled for a lease; then the machine stands still, as in the warm pool."""
        with steps.timed("bare libvirt: overlay + restore + agent answers"):
            memory, flags = str(self._warm / MEMORY), libvirt.VIR_DOMAIN_SAVE_RUNNING
            port = domains._free_port()
            self._connection.restoreFlags(memory, self._next_xml(port), flags)
            await self._answers(port)
        address = GuestAddress(HOST, port)
        lease = LeaseRef(lease_id=new("lea", uuid4()), machine_id=self._ask.machine_id, epoch=1, term=1)
        with steps.timed("enrol (key pair made in the guest)"):
            enrolment = await self._enroller.enrol(
                address,
                self._authority,
                self._ask.machine_id,
                lease_id=lease.lease_id,
                epoch=lease.epoch,
                lifetime_s=LEASE_LIFETIME_S,
                timeout_s=ANSWER_TIMEOUT_S,
            )
        domains.suspend(self._connection, self._ask.machine_id)
        await asyncio.sleep(1.0)
        return address, lease, enrolment.server_identity

    async def _first_instruction(self, steps: Steps, address: GuestAddress, lease: LeaseRef, identity: str) -> None:
        sample = self._place / "sample.sh"
        sample.write_text(self._ask.sample, encoding="ascii")
        with steps.timed("resume"):
            domains.resume(self._connection, self._ask.machine_id)
        endpoint = GuestEndpoint(
            scheme="tcp",
            host=address.host,
            port=address.port,
            server_identity=identity,
            ca_pem=self._authority.ca_cert_pem,
        )
        with steps.timed("connect"):
            session = await self._connector.connect(endpoint, lease, timeout_s=ANSWER_TIMEOUT_S)
        try:
            with steps.timed("put"):
                path = await session.put(sample, "sample.sh")
            with steps.timed("plugin ready and armed"):
                await session.init_plugin("syscalls", {"trace_max_mib": 32, "string_bytes": 4096})
                await session.arm()
            with steps.timed("exec"):
                launched = await session.launch(("/bin/sh", path))
            if launched.exec_error:
                raise RuntimeError(launched.exec_error)
        finally:
            await session.close()

    async def _answers(self, port: int) -> None:
        await self._enroller.attest(
            GuestAddress(HOST, port), self._authority, self._ask.machine_id, timeout_s=ANSWER_TIMEOUT_S
        )

    def _next_xml(self, port: int) -> str:
        """The saved domain on a fresh overlay and a blank bundle."""
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(mode=0o700)
        disk, blank = self._place / DISK, self._place / ENROLMENT
        backing = str(self._warm / DISK)
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, str(disk)],
            check=True,
            timeout=END_TIMEOUT_S,
        )
        blank.write_bytes(bytes((self._warm / ENROLMENT).stat().st_size))
        saved = self._connection.saveImageGetXMLDesc(str(self._warm / MEMORY), libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
        return succeed(saved, epoch=1, disk=disk, enrolment=blank, agent_port=port)

    def _argv(self, xml: str) -> list[str]:
        """QEMU's command line as libvirt would write it, without what only libvirt can hold, and with the image."""
        words = shlex.split(self._connection.domainXMLToNative("qemu-argv", xml, 0))
        start = next(index for index, word in enumerate(words) if "=" not in word.partition("/")[0])
        argv = _without(words[start:])
        return [
            *argv,
            "-monitor",
            "stdio",
            "-incoming",
            f"exec:tail -c +{_stream_offset(self._warm / MEMORY) + 1} {self._warm / MEMORY}",
        ]


async def _running(process: asyncio.subprocess.Process) -> None:
    """The image has loaded and the guest runs. It was saved standing still and loads so: the monitor sends it on."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("QEMU was started without its monitor")
    said = b""
    while b"VM status: running" not in said:  # bounded by the caller's timeout
        if process.returncode is not None:
            raise RuntimeError(f"the bare QEMU ended: {said[-2000:].decode(errors='replace')}")
        process.stdin.write(b"cont\ninfo status\n")
        await process.stdin.drain()
        await asyncio.sleep(NUDGE_S)
        said = await process.stdout.read(MONITOR_BYTES)


def _without(argv: list[str]) -> list[str]:
    """The words without the options that need libvirt, each with its value, and without the order to stand still."""
    kept, words = [], iter(word for word in argv if word != "-S")
    for word in words:
        value = next(words) if word.startswith("-") and word not in _BARE else None
        if word in _STRIPPED or (value is not None and any(name in value for name in _HELD_BY_LIBVIRT)):
            continue
        kept += [word] if value is None else [word, value]
    return kept


def _stream_offset(image: Path) -> int:
    with image.open("rb") as stream:
        fields = _HEADER.unpack(stream.read(_HEADER.size))
    if fields[0] != _MAGIC:
        raise RuntimeError(f"{image} is not a save image of libvirt")
    return _HEADER.size + int(fields[_XML_LENGTH_AT])


def become(user: str) -> None:
    """This process is the user's from here on."""
    if os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.setgroups(group_ids_of(user))
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.environ["HOME"] = str(entry.pw_dir)


def main() -> None:
    """Reads the task, does it as the machines' user, writes the steps."""
    ask = Ask.model_validate_json(sys.stdin.buffer.read())
    become(sys.argv[1])
    os.chdir(ask.machine_dir)
    os.umask(0o077)
    json.dump(asyncio.run(ByHand(ask).run()), sys.stdout)


if __name__ == "__main__":
    main()
