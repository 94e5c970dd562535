"""A host of the tests' own, with an internet of their own: namespaces that nothing outside of them can be reached from.

    guest (a process at the end of a cable, as QEMU is) -- machine's namespace -- egress -- world
                                                                     host ------------------^

The helper runs as its own process inside `host`; the sniffers stand on the host, in the world, and at other guests.
"""

import asyncio
import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.state import MACHINE_USER, NETWORK_USER, SERVICE_USER
from services.machines.adapters.guest_network import HelperNetwork
from services.machines.network.layout import socket_name
from services.machines.network.namespace import IP, SYSCTL, Namespace
from services.machines.ports import Breach, GuestNetwork
from tests.security.network.ends import as_user
from tests.security.network.processes import children, descendants, words

ROOT = Path(__file__).resolve().parents[3]
SERVER = "198.51.100.1"
"""A server on the internet of the tests."""
RESOLVER = "10.9.9.53"
"""In a private range, as an operator's own may be: its name service is the one thing there that guests may reach."""
HOST = "198.51.100.2"
EGRESS = "198.51.100.10"
OTHERS = ("10.9.9.9", "172.16.9.9", "192.168.77.7", "100.64.9.9", "169.254.169.254", "198.18.0.9")
"""Servers in the world with addresses that no guest may reach."""
RATE_KIB_S = 64
MACHINES = """\
[profile.linux]
platform = "linux"
image = "linux"
routes = ["none", "simulated", "internet"]
""" + "".join(
    f'[[machine]]\nid = "{name}"\nprofile = "linux"\n'
    for name in ("m", "m0", "m1", "m2", "guest", "neighbour", "walled")
)
"""What the operator allows each machine of the tests."""
LEASE = "lea_" + "1" * 32
OTHER_LEASE = "lea_" + "2" * 32


@dataclass
class Lab:
    """The host, the world, and the helper that runs on the host."""

    directory: Path
    host: Namespace
    world: Namespace
    helper: subprocess.Popen[bytes]
    network: HelperNetwork
    epoch: int = 0

    def next_epoch(self) -> int:
        """Of the next owner."""
        self.epoch += 1
        return self.epoch

    def namespace_of_guest(self) -> Namespace:
        """The namespace of the one machine that is plugged."""
        (cable,) = self.cables()
        return Namespace.at(f"/proc/{cable}/ns/net")

    def cables(self) -> list[int]:
        """The processes that carry guests' frames, the oldest first."""
        return [pid for pid in children(self.helper.pid) if b"services.machines.network.cable" in words(pid)]

    def processes(self, word: str) -> list[int]:
        """The helper's processes whose command line has that word in it."""
        return [pid for pid in descendants(self.helper.pid) if word.encode() in words(pid)]

    def namespace_of_egress(self) -> Namespace:
        """The one that the helper holds and none of its own processes runs in; commands look into it at any time."""
        folder = Path(f"/proc/{self.helper.pid}/fd")
        held = {target: entry for entry in folder.iterdir() if (target := target_of(entry)).startswith("net:")}
        for pid in (self.helper.pid, *self.processes("services.machines.network.")):
            held.pop(target_of(Path(f"/proc/{pid}/ns/net")), None)
        (entry,) = held.values()
        return Namespace.at(str(entry))

    @property
    def blobs(self) -> Path:
        """The object store."""
        return self.directory / "blobs"


def _log(directory: Path) -> str:
    return (directory / "helper.log").read_text(encoding="utf-8")


@asynccontextmanager
async def laboratory(
    *,
    has_egress: bool = True,
    capture_max_bytes: int = 1 << 20,
    cuts_on_breach: bool = True,
    guests_group: str = "no-such-group",
) -> AsyncIterator[Lab]:
    """Everything stands; afterwards nothing is left."""
    if os.geteuid() != 0:
        pytest.fail("network namespaces are made by root: run these tests as root")
    host, world = Namespace(), Namespace()
    with tempfile.TemporaryDirectory(prefix="mbx-net-", dir="/var/tmp") as made:
        changed: dict[str, int | str] = {
            "capture_max_bytes": capture_max_bytes,
            "cuts_on_breach": cuts_on_breach,
            "guests_group": guests_group,
        }
        directory = _prepared(Path(made), changed, has_egress=has_egress)
        try:
            await _connect(host, world)
            helper = start_helper(host, directory)
            await _until_it_answers(directory / "network" / "helper", helper)
            running = Lab(directory, host, world, helper, HelperNetwork(directory / "network" / "helper"))
            try:
                yield running
            finally:
                running.helper.terminate()
                running.helper.wait(timeout=30)
                print(_log(directory))  # noqa: T201 - shown where a test fails
        finally:
            host.close()
            world.close()


async def start_again(lab: Lab) -> None:
    """Another helper runs on the same host, over what an ended one left."""
    (lab.directory / "network" / "helper").unlink(missing_ok=True)
    lab.helper = start_helper(lab.host, lab.directory)
    await _until_it_answers(lab.directory / "network" / "helper", lab.helper)


async def kill_and_start(lab: Lab) -> None:
    """The helper was killed, and another runs."""
    with as_user("root"):
        lab.helper.kill()
        lab.helper.wait(timeout=20)
        await start_again(lab)


async def until(is_so: Callable[[], bool]) -> None:
    """It is so; asked again and again, for it happens in other processes."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - as said
            await asyncio.sleep(0.02)


async def collected(seen: Callable[[], bytes], marks: Sequence[bytes]) -> bytes:
    """What was seen until each mark had come as often as it is given, or the time was up: the test says what lacks."""
    caught = bytearray()

    def have_come() -> bool:
        caught.extend(seen())
        return _holds(bytes(caught), marks)

    with suppress(TimeoutError):
        await until(have_come)
    return bytes(caught)


async def recorded(lab: Lab, machine_id: str, marks: Sequence[bytes]) -> None:
    """The machine's record of packets holds each mark as often as it is given, or the time was up."""
    path = (lab.directory / "network" / socket_name(machine_id)).with_suffix(".pcap")
    with as_user("root"), suppress(TimeoutError):
        await until(lambda: _holds(path.read_bytes(), marks))


def _holds(content: bytes, marks: Sequence[bytes]) -> bool:
    return all(content.count(mark) >= times for mark, times in Counter(marks).items())


async def watched(lab: Lab) -> None:
    """The watch has begun: the helper has a connection that stays, and has read what was asked on it.

    It takes whoever connects in turn: what is asked after the watch is answered after it.
    """
    await until(lambda: "03" in _connections(lab))
    with as_user(MACHINE_USER):
        await lab.network.observe()


async def first(network: GuestNetwork) -> Breach:
    """The first breach that is told."""
    async for breach in network.breaches():
        return breach
    raise AssertionError("nobody watches")


def _connections(lab: Lab) -> list[str]:
    path = str(lab.directory / "network" / "helper")
    lines = Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()
    return [line.split()[5] for line in lines if line.endswith(path)]


async def _connect(host: Namespace, world: Namespace) -> None:
    await host.run(IP, "link", "add", "eth0", "type", "veth", "peer", "name", "inet0")
    await _give(host, "inet0", world)
    await host.run(IP, "address", "add", f"{HOST}/24", "dev", "eth0")
    for link in ("lo", "eth0"):
        await host.run(IP, "link", "set", link, "up")
    # The worst host there is: it forwards, so that what comes to it would go on.
    await host.run(SYSCTL, "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
    for address in (SERVER, RESOLVER, *OTHERS):
        await world.run(IP, "address", "add", f"{address}/{24 if address == SERVER else 32}", "dev", "inet0")
    for link in ("lo", "inet0"):
        await world.run(IP, "link", "set", link, "up")


async def _give(owner: Namespace, link: str, other: Namespace) -> None:
    process = await asyncio.create_subprocess_exec(
        *owner.argv([IP, "link", "set", link, "netns", f"/proc/self/fd/{other.descriptor}"]),
        pass_fds=(owner.descriptor, other.descriptor),
    )
    assert await process.wait() == 0


def _prepared(directory: Path, changed: dict[str, int | str], *, has_egress: bool) -> Path:
    """The directory holds the object store, the machines file and the helper's settings."""
    directory.chmod(0o711)
    (directory / "blobs").mkdir()
    entry = pwd.getpwnam(SERVICE_USER)
    os.chown(directory / "blobs", entry.pw_uid, entry.pw_gid)
    egress = (
        f'[egress]\ninterface = "eth0"\naddress = "{EGRESS}/24"\ngateway = "{SERVER}"\nresolver = "{RESOLVER}"\n'
        f"rate_kib_s = {RATE_KIB_S}\n"
    )
    (directory / "fleet.toml").write_text(MACHINES + (egress if has_egress else ""), encoding="utf-8")
    settings = {
        "directory": str(directory / "network"),
        "blob_dir": str(directory / "blobs"),
        "machines_file": str(directory / "fleet.toml"),
        "machines_user": MACHINE_USER,
        "services_user": SERVICE_USER,
        "network_user": NETWORK_USER,
        **changed,
    }
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    (directory / "network.toml").write_text(lines, encoding="utf-8")
    return directory


def start_helper(host: Namespace, directory: Path) -> subprocess.Popen[bytes]:
    """The helper runs on the host."""
    with (directory / "helper.log").open("ab") as log:
        return subprocess.Popen(
            host.argv([sys.executable, "-P", "-m", "services.machines.network"]),
            pass_fds=(host.descriptor,),
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "MALBOX_CONFIG": str(directory / "network.toml"),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


async def _until_it_answers(path: Path, helper: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(60):
        while not _listens(path):
            assert helper.poll() is None, "the helper ended"
            await asyncio.sleep(0.05)


def _listens(path: Path) -> bool:
    """Whether somebody hears at the socket: a name that is bound already may not be open to everybody yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        return asking.connect_ex(str(path)) == 0


def target_of(link: Path) -> str:
    """Where a link of /proc leads; nowhere once it is gone."""
    try:
        return str(link.readlink())
    except OSError:
        return ""
