"""A real guest on each route: QEMU, the image, the agent, and a sample that tries what it can."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import libvirt
import pytest

from contracts.submission import Route
from deploy.local import libvirt as daemon
from services.machines.adapters import qemu_processes
from services.machines.adapters.hardening import confinement, faults_of_domain, faults_of_process
from services.machines.network.namespace import in_namespace
from tests.security.network.ends import Sniffer, as_user
from tests.security.network.guest_bed import SPEC, Bed, bed
from tests.security.network.lab import HOST, OTHERS, RESOLVER, SERVER, Lab, recorded, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MARK = b"<from a real guest>"

# Each step that fails ends the sample with its number: the exit status says which expectation did not hold.
PRELUDE = f"""\
import socket, sys
MARK = {MARK!r}
socket.setdefaulttimeout(8)

def must(number, is_so):
    if not is_so:
        sys.exit(number)

def reaches(address, port, said=b""):
    try:
        with socket.create_connection((address, port)) as connection:
            connection.sendall(said)
            return connection.recv(4096)
    except OSError:
        return None

def throws(address, port=7, family=socket.AF_INET, broadcasts=False):
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as thrown:
            if broadcasts:
                thrown.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            thrown.sendto(MARK, (address, port))
    except OSError:
        pass

for hostile in {(*OTHERS, HOST, "100.127.0.1", "100.127.0.5", "224.0.0.251", "127.0.0.1", "10.0.2.2")!r}:
    throws(hostile)
throws("255.255.255.255", 68, broadcasts=True)
throws("192.168.1.255", 137, broadcasts=True)
for six in ("2001:db8::1", "ff02::1", "fe80::1"):
    throws(six, family=socket.AF_INET6)
"""
SAMPLES: dict[Route, str] = {
    "none": """
must(11, [name for _, name in socket.if_nameindex()] == ["lo"])
must(12, reaches("192.0.2.1", 80) is None)
must(13, reaches("192.168.1.1", 53) is None)
""",
    "simulated": """
must(21, socket.gethostbyname("command.example") == "203.0.113.80")
must(22, b"HTTP/1" in (reaches("command.example", 80, b"GET /x.exe HTTP/1.0\\r\\n\\r\\n") or b""))
must(23, (reaches("192.0.2.25", 25) or b"").startswith(b"220"))
must(24, reaches("192.0.2.1", 4444, MARK) is not None)
""",
    "internet": f"""
must(31, (reaches("{SERVER}", 80, b"hello") or b"") == b"welcome")
must(32, reaches("{OTHERS[0]}", 80, MARK) is None)
must(33, socket.gethostbyname("command.example") == "{SERVER}")
throws("{SERVER}", 9)
""",
}


@pytest.fixture(name="bed")
async def bed_fixture() -> AsyncIterator[Bed]:
    """Everything stands; the machine was provisioned behind a cable."""
    async with bed() as made:
        yield made


@pytest.mark.promise("P22", "P23", "P24", "P25", "F6")
async def test_a_sample_in_a_real_guest_gets_what_its_route_gives_and_nothing_else(bed: Bed) -> None:
    """On each route the sample finds what it should; none of what it throws around arrives anywhere.

    What runs matches the hardened profile, the second card included.
    """
    folder = bed.state.machines / ".samples"
    folder.mkdir(exist_ok=True)
    with _world(bed.network):
        for route, steps in SAMPLES.items():
            address = await bed.restored()
            _refuse_soft_spots(bed)
            sample = folder / f"{route}.py"
            sample.write_text(PRELUDE + steps, encoding="utf-8")
            with as_user("root"):
                world, host = Sniffer(bed.network.world, "inet0"), Sniffer(bed.network.host, "lo")
            assert await bed.run(address, route, sample) == 0, route
            expected = {SERVER} if route == "internet" else set()
            there = await _reached(expected, world, host)
            await _leave(bed, route)
            assert there | _targets(world, host) == expected, route
            world.close()
            host.close()


async def _reached(expected: set[str], *sniffers: Sniffer) -> set[str]:
    """Where the sample's datagrams arrived by the time that they had where they should, or that the time was up.

    Its exit comes by another card, and may be known before its last frame has come by this one.
    """
    there: set[str] = set()

    def have_arrived() -> bool:
        there.update(_targets(*sniffers))
        return there >= expected

    with suppress(TimeoutError):
        await until(have_arrived)
    return there


def _targets(*sniffers: Sniffer) -> set[str]:
    """Where those of the sample's datagrams went that were seen since it was asked last."""
    thrown = [packet for sniffer in sniffers for packet in sniffer.packets() if MARK in packet]
    return {str(socket.inet_ntoa(packet[30:34])) for packet in thrown if packet[23] == socket.IPPROTO_UDP}


def _refuse_soft_spots(bed: Bed) -> None:
    """The live domain and process are what the hardened profile says, the second card included."""
    (pid,) = qemu_processes.of_machine(bed.state.machines / SPEC.machine_id)
    words = qemu_processes.arguments(pid)
    assert faults_of_process(confinement(pid), words) == []
    assert sum(word.startswith("stream,id=analysis,") for word in words) == 1
    with as_user("root"):
        xml = _xml(bed)
    assert faults_of_domain(xml) == []


def _xml(bed: Bed) -> str:
    connection = libvirt.open(daemon.uri(bed.state))
    try:
        xml: str = connection.lookupByName(f"malbox-{SPEC.machine_id}").XMLDesc(0)
        return xml
    finally:
        connection.close()


async def _leave(bed: Bed, route: Route) -> None:
    """The lease is over; what was recorded of it holds what the sample threw, and of the route none there is none."""
    if route != "none":
        await recorded(bed.network, SPEC.machine_id, [MARK])
    epoch = bed.network.next_epoch()
    taken = await bed.network.network.seal(SPEC.machine_id, epoch=epoch)
    await bed.hypervisor.destroy(SPEC.machine_id, epoch=epoch)
    await bed.network.network.close(SPEC.machine_id, epoch=epoch)
    assert (taken is None) == (route == "none")
    if taken is not None:
        with as_user("root"):
            (path,) = bed.network.blobs.rglob(taken.blob.sha256)
            assert MARK in path.read_bytes(), "the control: the sample did throw"


@contextmanager
def _world(network: Lab) -> Iterator[None]:
    """A server that welcomes and one that resolves every name to it; a private one that must not be reached."""
    with as_user("root"):
        sockets = in_namespace(network.world.descriptor, _listening)
    threads = [threading.Thread(target=_welcome, args=(one,)) for one in sockets[:2]]
    threads.append(threading.Thread(target=_resolve, args=(sockets[2],)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for one in sockets:
            one.close()
        for thread in threads:
            thread.join(timeout=10)


def _listening() -> list[socket.socket]:
    made = [socket.create_server((address, 80)) for address in (SERVER, OTHERS[0])]
    resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    resolver.bind((RESOLVER, 53))
    for one in (*made, resolver):
        one.settimeout(0.5)
    return [*made, resolver]


def _welcome(server: socket.socket) -> None:
    while server.fileno() >= 0:
        with suppress(OSError):  # nobody came, or whoever did stalled or hung up
            client, _ = server.accept()
            with client:
                client.settimeout(5)
                client.recv(100)
                client.sendall(b"welcome")


def _resolve(resolver: socket.socket) -> None:
    while resolver.fileno() >= 0:
        try:
            asked, client = resolver.recvfrom(512)
            answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + socket.inet_aton(SERVER)
            resolver.sendto(asked[:2] + b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + asked[12:] + answer, client)
        except OSError:
            continue
