"""The privileged helper: whom it hears, what it refuses, and what its processes may."""

import asyncio
import ctypes
import os
import signal
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from deploy.local import guest_group
from deploy.local.state import MACHINE_USER, NETWORK_USER, SERVICE_USER, State
from services.machines.errors import NetworkRefused, NetworkUnavailable, StaleEpoch
from services.machines.network.settings import HelperSettings
from services.machines.network.words import PACKET_MAX_BYTES
from tests.security.network import frames
from tests.security.network.conduct import counted
from tests.security.network.ends import Guest, as_user
from tests.security.network.lab import LEASE, OTHER_LEASE, SERVER, Lab, kill_and_start, laboratory
from tests.security.network.processes import status

pytestmark = [pytest.mark.timeout(120)]

_CLONE3 = 435  # of every architecture
ASKING = """
import socket, sys
asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
asking.settimeout(20)
asking.connect(sys.argv[1])
try:
    asking.sendall(b'{"verb": "inventory"}')
    heard = asking.recv(65536)
except (BrokenPipeError, ConnectionResetError):
    heard = b""
sys.stdout.write("an answer" if heard else "nothing")
"""


@pytest.mark.promise("P25")
async def test_only_the_machines_user_is_heard(lab: Lab) -> None:
    """Root and every other user are turned away without a word; the machines' user gets an answer."""
    assert "none" in await lab.network.routes()
    for stranger in (SERVICE_USER, NETWORK_USER, "root"):
        with as_user(stranger), pytest.raises(NetworkUnavailable):
            await lab.network.routes()


@pytest.mark.promise("P22", "P25")
async def test_a_guest_that_broke_out_is_not_heard_though_it_is_the_machines_user(tmp_path: Path) -> None:
    """QEMU is that user too: what is in the guests' control group is turned away; outside of it the same is heard."""
    group = guest_group.prepare(_state(tmp_path), guest_group.Allowance(256, 100))
    assert group.places, "this host gives Malbox no control groups: the helper cannot tell guests from others here"
    try:
        async with laboratory(guests_group=guest_group.name_of(State(tmp_path))) as lab:
            path = lab.directory / "network" / "helper"
            assert await asyncio.to_thread(_asked, path, None) == "an answer"
            assert await asyncio.to_thread(_asked, path, group) == "nothing"
    finally:
        guest_group.remove(State(tmp_path))


@pytest.mark.promise("P25")
@pytest.mark.parametrize("state", ["standing", "ended and its number taken again"])
async def test_the_number_of_who_asked_vouches_for_nobody_else(lab: Lab, state: str) -> None:
    """A process that connects and ends is not heard as the one that has its number by now; the control is heard."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asking.settimeout(20)
    lab.helper.send_signal(signal.SIGSTOP)  # it sees who connected only once all of this has happened
    try:
        number = _connected_by_a_child(asking, lab.directory / "network" / "helper")
        if state != "standing":
            _end(number)
            with as_user("root"):
                assert _born_as(number) == number
    finally:
        lab.helper.send_signal(signal.SIGCONT)
    try:
        assert bool(await asyncio.to_thread(_said_to, asking)) == (state == "standing")
    finally:
        _end(number)
        asking.close()


@pytest.mark.promise("P22", "P23")
async def test_a_route_that_the_operator_did_not_give_the_machine_is_refused(lab: Lab) -> None:
    """Whatever the machines' user asks for. The file counts as it is now, while it is broken as it was last good."""
    file = lab.directory / "fleet.toml"
    given = file.read_text(encoding="utf-8")
    narrowed = given.replace('"simulated", "internet"', '"simulated"')
    assert narrowed != given
    _rewrite(file, narrowed)
    await lab.network.plug("m", epoch=1)
    for content in (narrowed, "this is no TOML"):
        _rewrite(file, content)
        with pytest.raises(NetworkRefused, match="does not give m the route internet"):
            await lab.network.open("m", epoch=2, lease_id=LEASE, route="internet")
    _rewrite(file, given)
    await lab.network.open("m", epoch=2, lease_id=LEASE, route="internet")
    await lab.network.plug("stranger", epoch=1)
    with pytest.raises(NetworkRefused, match="does not give stranger the route simulated"):
        await lab.network.open("stranger", epoch=2, lease_id=LEASE, route="simulated")
    await lab.network.open("stranger", epoch=2, lease_id=LEASE, route="none")


@pytest.mark.promise("P2", "P4")
async def test_no_fence_is_led_to_where_no_owner_will_ever_be(lab: Lab) -> None:
    """An epoch far beyond the last is refused and leaves the fence; root's word, written into it, lets it pass."""
    most = HelperSettings.model_fields["epoch_jump_max"].default
    await lab.network.plug("m", epoch=5)
    for epoch in (5 + most + 1, 2**53 - 1):
        for call in (
            lambda epoch=epoch: lab.network.plug("m", epoch=epoch),
            lambda epoch=epoch: lab.network.open("m", epoch=epoch, lease_id=LEASE, route="none"),
            lambda epoch=epoch: lab.network.seal("m", epoch=epoch),
            lambda epoch=epoch: lab.network.close("m", epoch=epoch),
            lambda epoch=epoch: lab.network.plug("m0", epoch=epoch),
        ):
            with pytest.raises(NetworkRefused, match="root writes it into"):
                await call()
    await lab.network.plug("m", epoch=6)
    await lab.network.close("m", epoch=6 + most)
    with as_user("root"):
        (lab.directory / "network" / "fences" / "m" / "fence").write_text(str(9 * most), encoding="ascii")
    await lab.network.plug("m", epoch=9 * most + 1)


async def test_nonsense_is_refused_and_the_next_request_is_met(lab: Lab) -> None:
    """Packets that are no request get a refusal, however large or malformed; the helper goes on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.settimeout(10)
        asking.connect(str(lab.directory / "network" / "helper"))
        for nonsense in (b"{", b"\xff" * 100, b'{"verb": "plug"}', b"[" * 30000, b"x" * (PACKET_MAX_BYTES - 1)):
            await asyncio.to_thread(asking.send, nonsense)
            assert b"refused" in await asyncio.to_thread(asking.recv, PACKET_MAX_BYTES)
    assert await lab.network.observe() == []


@pytest.mark.promise("G4", "P2")
async def test_an_earlier_owner_has_no_effect_on_a_network(lab: Lab) -> None:
    """Every call with a lower epoch is refused, and the network of the current owner stands."""
    await lab.network.plug("m", epoch=5)
    for call in (
        lambda: lab.network.plug("m", epoch=4),
        lambda: lab.network.open("m", epoch=4, lease_id=LEASE, route="simulated"),
        lambda: lab.network.verify("m", epoch=4),
        lambda: lab.network.seal("m", epoch=4),
        lambda: lab.network.close("m", epoch=4),
    ):
        with pytest.raises(StaleEpoch):
            await call()
    assert [(one.machine_id, one.epoch) for one in await lab.network.observe()] == [("m", 5)]


@pytest.mark.promise("P2")
async def test_the_fence_outlives_the_helper(lab: Lab) -> None:
    """A helper that was killed and started again refuses what the one before refused."""
    await lab.network.plug("m", epoch=5)
    await kill_and_start(lab)
    with pytest.raises(StaleEpoch):
        await lab.network.plug("m", epoch=4)
    await lab.network.plug("m", epoch=5)


@pytest.mark.promise("P1", "P2")
async def test_a_network_is_open_for_one_lease(lab: Lab) -> None:
    """Asking again for the same lease is the same network; another lease, or another route, is refused."""
    await lab.network.plug("m", epoch=1)
    first = await lab.network.open("m", epoch=2, lease_id=LEASE, route="none")
    assert await lab.network.open("m", epoch=2, lease_id=LEASE, route="none") == first
    for lease, route in ((OTHER_LEASE, "none"), (LEASE, "simulated")):
        with pytest.raises(NetworkUnavailable, match="is open for lease"):
            await lab.network.open("m", epoch=2, lease_id=lease, route=route)  # type: ignore[arg-type]  # a Route


@pytest.mark.promise("P23")
async def test_nothing_passes_before_the_route_is_open(lab: Lab) -> None:
    """A plugged machine has a cable to nowhere: what its guest sends is counted and dropped, by a network seen to."""
    guest = Guest.connect("m", await lab.network.plug("m", epoch=1))
    before = await lab.network.verify("m", epoch=1)
    guest.send(guest.question(), guest.datagram(SERVER, 53, frames.name_question("example")))
    with as_user("root"):
        inside = lab.namespace_of_guest()
        async with asyncio.timeout(60):
            while await counted(inside, "dropped") < before.dropped + 2:  # noqa: ASYNC110 - the kernel counts
                await asyncio.sleep(0.02)
        inside.close()
    assert (await lab.network.verify("m", epoch=1)).passed == 0
    assert guest.pending() == b""
    guest.close()


@pytest.mark.promise("P23")
async def test_a_machine_that_was_never_plugged_cannot_be_opened(lab: Lab) -> None:
    """There is no network to open, and none is made."""
    with pytest.raises(NetworkRefused):
        await lab.network.open("m", epoch=1, lease_id=LEASE, route="none")
    assert await lab.network.observe() == []


@pytest.mark.promise("P24")
async def test_a_cable_takes_one_guest_of_the_right_user(lab: Lab) -> None:
    """Another user's process is hung up on; the right one is connected afterwards."""
    path = await lab.network.plug("m", epoch=1)
    with as_user("root"):
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stranger.settimeout(10)
        stranger.connect(str(path))
        assert await asyncio.to_thread(stranger.recv, 1) == b""
        stranger.close()
    guest = Guest.connect("m", path)
    await lab.network.open("m", epoch=2, lease_id=LEASE, route="simulated")
    guest.send(guest.question())
    assert await asyncio.to_thread(guest.receive)
    guest.close()


async def test_the_processes_of_a_network_have_no_privileges(lab: Lab) -> None:
    """Cable, INetSim and the recorder run as a user of their own; none may gain anything."""
    await lab.network.plug("m", epoch=1)
    await lab.network.open("m", epoch=2, lease_id=LEASE, route="simulated")
    with as_user("root"):
        lasting = [
            pid for name in ("services.machines.network.cable", "tcpdump", "inetsim") for pid in lab.processes(name)
        ]
        told = [status(pid) for pid in lasting]
    assert len(told) > 10, "the control: there are such processes"
    for fields in told:
        assert "0" not in fields["Uid"].split()
        assert fields["NoNewPrivs"] == "1"
        assert int(fields["CapEff"], 16) in {0, 1 << 13}, "nothing but, for the recorder, CAP_NET_RAW"


@pytest.mark.promise("P22")
async def test_a_route_that_the_host_does_not_have_is_refused() -> None:
    """Without a way out in the machines file there is no internet, and nothing is half made."""
    async with laboratory(has_egress=False) as lab:
        with as_user(MACHINE_USER):
            assert await lab.network.routes() == ("none", "simulated")
            await lab.network.plug("m", epoch=1)
            with pytest.raises(NetworkUnavailable, match="internet"):
                await lab.network.open("m", epoch=2, lease_id=LEASE, route="internet")
            assert await lab.network.observe() == []


def _state(root: Path) -> State:
    state = State(root)
    state.run.mkdir()
    return state


def _asked(path: Path, group: guest_group.Group | None) -> str:
    """What a process of the machines' user hears, in the group or in none."""
    argv = guest_group.joined(group or guest_group.Group(), MACHINE_USER, ["/usr/bin/python3", "-c", ASKING, str(path)])
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True, cwd="/").stdout


def _connected_by_a_child(asking: socket.socket, path: Path) -> int:
    """The number of the process that connected it, which stands until it is ended."""
    hears, tells = os.pipe()
    number = os.fork()
    if number == 0:
        asking.connect(str(path))
        os.write(tells, b"!")
        signal.pause()
        os._exit(0)
    assert os.read(hears, 1) == b"!"
    os.close(hears)
    os.close(tells)
    return number


def _born_as(number: int) -> int:
    """A process that bears this very number stands until it is ended (clone3(2), set_tid)."""
    wanted = (ctypes.c_int * 1)(number)
    told = struct.pack("=11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
    born = ctypes.CDLL(None, use_errno=True).syscall(_CLONE3, ctypes.create_string_buffer(told, len(told)), len(told))
    if born == 0:
        signal.pause()
        os._exit(0)
    return int(born)


def _end(number: int) -> None:
    """The child is gone and waited for."""
    with as_user("root"):
        os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)


def _said_to(asking: socket.socket) -> bytes:
    """The answer; nothing where the other end hung up."""
    try:
        asking.sendall(b'{"verb": "inventory"}')
        return asking.recv(PACKET_MAX_BYTES)
    except (BrokenPipeError, ConnectionResetError):
        return b""


def _rewrite(file: Path, content: str) -> None:
    with as_user("root"):
        file.write_text(content, encoding="utf-8")
