"""A sample that has become root in a real guest, and writes whatever frames it likes onto the analysis card.

The guest is softer than any that ships: its agent starts samples as root, so nothing in it stands in their way. What is
tested is what stands outside of it.
"""

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contracts.submission import Route
from deploy.local.state import State
from guest.images import build as images
from services.machines.network.layout import guest_mac
from services.machines.network.namespace import in_namespace
from services.machines.ports import Isolation
from tests.integration import hypervisor_harness as harness
from tests.security.network.conduct import NEIGHBOUR, hostile
from tests.security.network.ends import Guest, Sniffer, as_user
from tests.security.network.guest_bed import SPEC, Bed, bed
from tests.security.network.lab import SERVER, collected, recorded

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROUTES: tuple[Route, ...] = ("none", "simulated", "internet")
HONEST = b"<an honest datagram of root's>"
AS_SAMPLE, AS_ROOT = 'sample_user: str = "sample"', 'sample_user: str = "root"'

# Each step that fails ends the program with its number.
PROGRAM = """\
import ctypes, json, os, socket, subprocess, sys

def must(number, is_so):
    if not is_so:
        sys.exit(number)

def cards():
    found = {}
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as asked:
            asked.bind((name, 0))
            found[asked.getsockname()[4].hex(":")] = name
    return found

def send(card, frames):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sending:
        sending.bind((card, 0))
        for frame in frames:
            sending.send(bytes.fromhex(frame))

given = json.loads(GIVEN)
must(11, os.geteuid() == 0)
must(12, (given["mac"] in cards()) == given["has_card"])
if given["has_card"]:
    send(cards()[given["mac"]], given["frames"])
# Nothing keeps root in the sample's namespace. In the agent's is the control card, and on none the analysis card too.
must(13, ctypes.CDLL(None).setns(os.open("/proc/1/ns/net", os.O_RDONLY), 0) == 0)
if not given["has_card"]:
    card = cards()[given["mac"]]
    subprocess.run(["/usr/sbin/ip", "link", "set", card, "up"], check=True)
    send(card, given["frames"])
must(14, len(cards()) == (2 if given["has_card"] else 3))
for address in ("10.0.2.2", "10.0.2.3"):
    with socket.socket() as knocking:
        knocking.settimeout(2)
        must(15, knocking.connect_ex((address, given["port"])) != 0)
"""


@pytest.fixture(name="made")
async def made_fixture(tmp_path: Path) -> AsyncIterator[Bed]:
    """A machine whose agent starts samples as root."""

    def build_soft_image(state: State) -> None:
        tree = tmp_path / "source"
        for part in ("guest", "contracts"):
            shutil.copytree(images.SOURCE / part, tree / part)
        settings = tree / "guest" / "settings.py"
        text = settings.read_text(encoding="utf-8")
        assert AS_SAMPLE in text
        settings.write_text(text.replace(AS_SAMPLE, AS_ROOT), encoding="utf-8")
        harness.build_image(state, tree)

    async with bed(build_soft_image) as standing:
        yield standing


@pytest.mark.promise("P22", "P23", "P24")
async def test_no_frame_that_root_in_a_guest_writes_reaches_anybody(made: Bed) -> None:
    """Spoofed, ARP, IPv6 and its advertisements, fragments, VLANs and thirty more, on each route; nor does a knock.

    The controls: every victim's sniffer sees each of them when it is put beside it, and all of them crossed the card.
    """
    neighbour = await _neighbour(made)
    sender = Guest(SPEC.machine_id, neighbour.cable)  # it writes down frames, and sends none
    attempts = hostile(sender, NEIGHBOUR, _mark)
    frames = [frame for them in attempts.values() for frame in them] + [sender.datagram(SERVER, 9, HONEST)]
    with as_user("root"):
        await _seen_by_its_victims(made, attempts)
    for route in ROUTES:
        address = await made.restored()
        with as_user("root"):
            world, host = Sniffer(made.network.world, "inet0"), Sniffer(made.network.host, "lo")
        with _host_port() as port:
            program = _program(made, frames, route, port.getsockname()[1])
            assert await made.run(address, route, program) == 0, route
            assert _knocked(port) == 0, route
        await _all_crossed_the_card(made, attempts, route)
        caught = await collected(world.seen, [HONEST] if route == "internet" else [])
        await _leave(made, attempts, route)
        caught += world.seen() + host.seen() + neighbour.pending()
        assert [name for name in attempts if _mark(name) in caught] == [], route
        assert (HONEST in caught) == (route == "internet"), "the control: raw frames do get out where one may"
        world.close()
        host.close()
    neighbour.close()


def _mark(name: str) -> bytes:
    return f"<{name}/root>".encode()


def _marks(attempts: dict[str, list[bytes]]) -> list[bytes]:
    """That of each frame."""
    return [_mark(name) for name, them in attempts.items() for _ in them]


async def _neighbour(made: Bed) -> Guest:
    """Another guest, on the route that lets most through."""
    network = made.network
    path = await network.network.plug(NEIGHBOUR, epoch=network.next_epoch())
    guest = Guest.connect(NEIGHBOUR, path)
    epoch = network.next_epoch()
    await network.network.open(NEIGHBOUR, epoch=epoch, lease_id=f"lea_{epoch:032x}", route="internet")
    return guest


async def _seen_by_its_victims(made: Bed, attempts: dict[str, list[bytes]]) -> None:
    """The control of the sniffer: put onto the wire beside it, each frame is seen."""
    world = Sniffer(made.network.world, "inet0")
    beside = in_namespace(made.network.host.descriptor, _sender)
    for them in attempts.values():
        for frame in them:
            beside.send(frame)
    beside.close()
    seen = await collected(world.seen, _marks(attempts))
    assert [name for name in attempts if _mark(name) not in seen] == []
    world.close()


def _sender() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    made.bind(("eth0", 0))
    return made


def _program(made: Bed, frames: list[bytes], route: Route, port: int) -> Path:
    """What the sample runs: it brings the frames along, as they are to be written."""
    given = {
        "mac": guest_mac(SPEC.machine_id),
        "has_card": route != "none",
        "frames": [frame.hex() for frame in frames],
        "port": port,
    }
    folder = made.state.machines / ".samples"
    folder.mkdir(exist_ok=True)
    path = folder / f"{route}.py"
    path.write_text(f"GIVEN = {json.dumps(given)!r}\n{PROGRAM}", encoding="utf-8")
    return path


@contextmanager
def _host_port() -> Iterator[socket.socket]:
    """A port on the real host's loopback, which the control card's user-mode network would lead to if it led anywhere.

    The control: whoever knocks at it from the host is heard.
    """
    with socket.create_server(("127.0.0.1", 0)) as port:
        port.settimeout(0)
        with socket.create_connection(port.getsockname(), timeout=10):
            assert _knocked(port) == 1
        yield port


def _knocked(port: socket.socket) -> int:
    """How many have connected since it was asked last."""
    count = 0
    while True:
        try:
            port.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


async def _all_crossed_the_card(made: Bed, attempts: dict[str, list[bytes]], route: Route) -> None:
    """The control: the record of packets holds each frame; on none nothing is recorded, and the guard counted them.

    The sample's exit comes by another card, and may be known before its last frame has come by this one.
    """
    marks = [*_marks(attempts), HONEST]
    if route == "none":
        await _all_refused(made, len(marks))
    else:
        await recorded(made.network, SPEC.machine_id, marks)


async def _all_refused(made: Bed, frames: int) -> None:
    """The guard has dropped that many, and let none pass."""
    async with asyncio.timeout(60):
        while (seen := await _counted(made)).dropped < frames:  # noqa: ASYNC110 - the kernel counts them
            await asyncio.sleep(0.02)
    assert seen.passed == 0


async def _counted(made: Bed) -> Isolation:
    return await made.network.network.verify(SPEC.machine_id, epoch=made.network.epoch)


async def _leave(made: Bed, attempts: dict[str, list[bytes]], route: Route) -> None:
    """The lease is over, and nothing of its network is left but the record, which holds each frame."""
    epoch = made.network.next_epoch()
    taken = await made.network.network.seal(SPEC.machine_id, epoch=epoch)
    await made.hypervisor.destroy(SPEC.machine_id, epoch=epoch)
    await made.network.network.close(SPEC.machine_id, epoch=epoch)
    assert (taken is None) == (route == "none")
    if taken is not None:
        with as_user("root"):
            (path,) = made.network.blobs.rglob(taken.blob.sha256)
            record = path.read_bytes()
        assert [name for name in attempts if _mark(name) not in record] == [], route
