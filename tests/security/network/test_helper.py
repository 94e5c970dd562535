"""The privileged helper: whom it hears, what it refuses, what is left when it is gone."""

import asyncio
import ctypes
import os
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from deploy.local import guest_group
from deploy.local.state import MACHINE_USER, NETWORK_USER, SERVICE_USER, State
from services.machines.errors import IsolationBroken, NetworkRefused, NetworkUnavailable, StaleEpoch
from services.machines.network.rules import Limits, of_machine
from services.machines.network.settings import HelperSettings
from services.machines.network.words import PACKET_MAX_BYTES
from tests.security.network import frames
from tests.security.network.conduct import counted
from tests.security.network.ends import Guest, Sniffer, as_user
from tests.security.network.lab import (
    HOST,
    RATE_KIB_S,
    RESOLVER,
    SERVER,
    Lab,
    first,
    laboratory,
    start_again,
    target_of,
    until,
    watched,
)

pytestmark = [pytest.mark.timeout(120)]

LEASE = "lea_" + "1" * 32
_CLONE3 = 435  # of every architecture
LIMITS = Limits(IPv4Address(RESOLVER), RATE_KIB_S, (IPv4Network("127.0.0.1"), IPv4Network(HOST)))
OTHER_LEASE = "lea_" + "2" * 32
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


@pytest.fixture(name="lab")
async def lab_fixture() -> AsyncIterator[Lab]:
    """A host, a world, a helper; asked by the machines' user."""
    async with laboratory() as made:
        with as_user(MACHINE_USER):
            yield made


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
    await _killed_and_started(lab)
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
        async with asyncio.timeout(10):
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


@pytest.mark.promise("P23")
async def test_a_plugged_network_that_was_changed_is_not_opened(lab: Lab) -> None:
    """What is not as it was made fails the lease, and is taken away instead of being used."""
    await lab.network.plug("m", epoch=1)
    with as_user("root"):
        inside = lab.namespace_of_guest()
        await inside.load("flush ruleset\n")
    with pytest.raises(IsolationBroken):
        await lab.network.open("m", epoch=2, lease_id=LEASE, route="simulated")
    inside.close()


@pytest.mark.promise("P22", "P6")
@pytest.mark.parametrize(
    "drift",
    [
        ("/usr/sbin/nft", "flush", "ruleset"),
        ("/usr/sbin/nft", "add", "rule", "netdev", "guard", "arriving", "accept"),
        ("/usr/sbin/nft", "delete", "chain", "netdev", "guard", "leaving"),
        ("/usr/sbin/ip", "address", "add", "192.0.2.7/24", "dev", "guest0"),
        ("/usr/sbin/ip", "link", "add", "more0", "type", "veth", "peer", "name", "more1"),
        ("/usr/sbin/ip", "rule", "add", "from", "192.168.1.2", "lookup", "100"),
        ("/usr/sbin/ip", "-6", "rule", "add", "from", "all", "lookup", "100"),
        ("/usr/sbin/ip", "rule", "delete", "lookup", "default"),
        ("/usr/sbin/ip", "route", "add", "blackhole", "203.0.113.0/24", "table", "default"),
        ("/usr/sbin/ip", "route", "add", "local", "203.0.113.0/24", "dev", "guest0", "table", "local"),
        ("/usr/sbin/ip", "-6", "route", "add", "blackhole", "2001:db8::/32"),
        ("/usr/sbin/tc", "qdisc", "add", "dev", "guest0", "clsact"),
        ("/usr/sbin/sysctl", "-w", "net.ipv4.ip_forward=1"),
    ],
    ids=lambda words: " ".join(words[1:5]),
)
async def test_whoever_watches_hears_of_a_breach_at_once(lab: Lab, drift: tuple[str, ...]) -> None:
    """Rules, addresses, cards, policy rules, tables, classifiers, forwarding: each change is told, nobody asks."""
    await lab.network.plug("m", epoch=1)
    await lab.network.open("m", epoch=2, lease_id=LEASE, route="none")
    watching = asyncio.create_task(first(lab.network))
    await asyncio.sleep(0)
    with as_user("root"):
        inside = lab.namespace_of_guest()
        await watched(lab)
        await inside.run(*drift)
        inside.close()
    async with asyncio.timeout(20):
        breach = await watching
    assert (breach.machine_id, breach.epoch, breach.lease_id) == ("m", 2, LEASE)
    with pytest.raises(IsolationBroken):
        await lab.network.verify("m", epoch=2)


@pytest.mark.promise("P22", "P23")
async def test_a_guest_whose_rules_are_gone_is_cut_off_at_once(lab: Lab) -> None:
    """Before anybody acts on the breach: its card is down, and putting the rules back does not bring it up."""
    guest = Guest.connect("m", await lab.network.plug("m", epoch=1))
    opened = await lab.network.open("m", epoch=2, lease_id=LEASE, route="internet")
    assert opened.rules_sha256
    with as_user("root"):
        inside = lab.namespace_of_guest()
        world = Sniffer(lab.world, "inet0")
        await inside.load("flush ruleset\n")
        async with asyncio.timeout(20):
            while "down" not in (await inside.interfaces())["guest0"]:  # noqa: ASYNC110 - the helper does it
                await asyncio.sleep(0.02)
        await inside.load(of_machine("internet", guest.mac, LIMITS).text())
        guest.send(guest.datagram(SERVER, 9, b"<after the cut>"))
        assert b"<after the cut>" not in world.seen()
        world.close()
        inside.close()
    with pytest.raises(IsolationBroken, match="down"):
        await lab.network.verify("m", epoch=2)
    guest.close()


@pytest.mark.promise("P22", "P23", "P6")
@pytest.mark.parametrize(
    "drift",
    [
        ("/usr/sbin/nft", "flush", "ruleset"),
        ("/usr/sbin/nft", "add", "rule", "inet", "route", "forward", "accept"),
        ("/usr/sbin/ip", "route", "add", "203.0.113.0/24", "via", SERVER, "dev", "wan0"),
        ("/usr/sbin/ip", "address", "add", "192.0.2.7/24", "dev", "wan0"),
        ("/usr/sbin/ip", "link", "set", "wan0", "down"),
        ("/usr/sbin/ip", "link", "add", "lnk9", "type", "veth", "peer", "name", "more1"),
        ("/usr/sbin/ip", "rule", "add", "from", "all", "lookup", "100"),
        ("/usr/sbin/tc", "qdisc", "add", "dev", "wan0", "clsact"),
    ],
    ids=lambda words: " ".join(words[1:4]),
)
async def test_a_change_of_the_egress_namespace_is_seen_by_itself(lab: Lab, drift: tuple[str, ...]) -> None:
    """Everybody on the route internet is told of and cut off, nobody asks; a machine on another route goes on."""
    outside = ("m1", "m2")
    for name, route in (("m0", "simulated"), *((name, "internet") for name in outside)):
        await lab.network.plug(name, epoch=1)
        await lab.network.open(name, epoch=2, lease_id=LEASE, route=route)  # type: ignore[arg-type]  # a Route
    watching = asyncio.create_task(_breached(lab, len(outside)))
    await asyncio.sleep(0)
    with as_user("root"):
        egress = lab.namespace_of_egress()
        await watched(lab)
        await egress.run(*drift)
        async with asyncio.timeout(20):
            assert await watching == set(outside)
            while "down" not in (await egress.interfaces())["wan0"]:  # noqa: ASYNC110 - the helper does it
                await asyncio.sleep(0.02)
        egress.close()
    for name in outside:
        with pytest.raises(IsolationBroken, match="egress"):
            await lab.network.verify(name, epoch=2)
    await lab.network.verify("m0", epoch=2)


@pytest.mark.promise("P22", "P23")
async def test_the_next_machine_gets_an_egress_namespace_that_nobody_changed(lab: Lab) -> None:
    """It gets out; the one that was on the changed one stays cut off."""
    await lab.network.plug("m1", epoch=1)
    await lab.network.open("m1", epoch=2, lease_id=LEASE, route="internet")
    with as_user("root"):
        egress = lab.namespace_of_egress()
        await egress.load("flush ruleset\n")
        async with asyncio.timeout(20):
            while "down" not in (await egress.interfaces())["wan0"]:  # noqa: ASYNC110 - the helper does it
                await asyncio.sleep(0.02)
        egress.close()
    guest = Guest.connect("m2", await lab.network.plug("m2", epoch=1))
    await lab.network.open("m2", epoch=2, lease_id=OTHER_LEASE, route="internet")
    with as_user("root"):
        world = Sniffer(lab.world, "inet0")
        guest.send(guest.datagram(SERVER, 9, b"<from the next>"), guest.question())
        await asyncio.to_thread(guest.receive)
        async with asyncio.timeout(20):
            while b"<from the next>" not in world.seen():  # noqa: ASYNC110 - it happens in the kernel
                await asyncio.sleep(0.02)
        world.close()
    with pytest.raises(IsolationBroken):
        await lab.network.verify("m1", epoch=2)
    guest.close()


@pytest.mark.promise("P5")
async def test_a_killed_helper_leaves_nothing_behind(lab: Lab) -> None:
    """Namespaces, cards, links, rules and processes end with it; the next one starts with nothing."""
    for number, route in enumerate(("none", "simulated", "internet")):
        await lab.network.plug(f"m{number}", epoch=1)
        await lab.network.open(f"m{number}", epoch=2, lease_id=LEASE, route=route)  # type: ignore[arg-type]  # a Route
    with as_user("root"):
        before = _namespaces()
        assert len(before - _namespaces_without(lab)) >= 3, "the control: there were namespaces to lose"
        mine = _descendants(lab.helper.pid)
        assert len(mine) > 5, "the control: there were processes to lose"
    await _killed_and_started(lab)
    with as_user("root"):
        await until(lambda: not any(map(_runs, mine)))
        assert set(await lab.host.interfaces()) == {"lo", "eth0"}
    assert await lab.network.observe() == []


@pytest.mark.promise("P5")
async def test_a_closed_network_is_gone(lab: Lab) -> None:
    """Its namespace, its processes, its socket and its link are; closing again is nothing."""
    await lab.network.plug("m", epoch=1)
    await lab.network.open("m", epoch=2, lease_id=LEASE, route="internet")
    with as_user("root"):
        mine = _descendants(lab.helper.pid)
        egress = lab.namespace_of_egress()
        assert "lnk0" in await egress.interfaces(), "the control: there was a link"
    for _ in range(2):
        await lab.network.close("m", epoch=3)
    with as_user("root"):
        assert [pid for pid in mine if _runs(pid)] == []
        assert "lnk0" not in await egress.interfaces()
        egress.close()
    assert list((lab.directory / "network").glob("*.sock")) == []


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
            pid for name in ("services.machines.network.cable", "tcpdump", "inetsim") for pid in _named(lab, name)
        ]
        told = [_status(pid) for pid in lasting]
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


async def test_packets_are_recorded_from_the_first_one_on(lab: Lab) -> None:
    """The record holds what the guest sent, refused or not, and what it got; it is in the object store, whole."""
    guest = Guest.connect("m", await lab.network.plug("m", epoch=1))
    await lab.network.open("m", epoch=2, lease_id=LEASE, route="simulated")
    guest.send(guest.datagram(SERVER, 7, b"<sent>", source="192.0.2.9"), guest.question())
    answer = await asyncio.to_thread(guest.receive)
    await _recorded(lab, 3)
    taken = await lab.network.seal("m", epoch=3)
    assert taken is not None
    assert taken == await lab.network.seal("m", epoch=3)
    with as_user("root"):
        content = _blob(lab, taken.blob.sha256)
    assert len(content) == taken.blob.size_bytes
    assert (taken.packets, taken.is_truncated) == (3, False)
    assert b"<sent>" in content
    assert answer in content
    guest.close()


@pytest.mark.promise("P11")
async def test_packets_of_a_guest_that_has_ended_are_still_recorded_whole(lab: Lab) -> None:
    """The card stays when the guest's process is gone: whoever cleans ends the guest first and asks then."""
    guest = Guest.connect("m", await lab.network.plug("m", epoch=1))
    await lab.network.open("m", epoch=2, lease_id=LEASE, route="simulated")
    guest.send(guest.datagram(SERVER, 7, b"<its last words>", source="192.0.2.9"))
    await _recorded(lab, 1)
    guest.close()
    taken = await lab.network.seal("m", epoch=3)
    assert taken is not None
    assert (taken.packets, taken.is_truncated) == (1, False)
    with as_user("root"):
        assert b"<its last words>" in _blob(lab, taken.blob.sha256)


async def test_a_record_stops_at_its_bound() -> None:
    """A flood fills it and no more; it ends with a whole packet and is called truncated."""
    async with laboratory(capture_max_bytes=8192) as lab:
        with as_user(MACHINE_USER):
            guest = Guest.connect("m", await lab.network.plug("m", epoch=1))
            await lab.network.open("m", epoch=2, lease_id=LEASE, route="simulated")
            guest.send(*(guest.datagram(SERVER, 7, b"x" * 1000, source="192.0.2.9") for _ in range(30)))
            await until(lambda: not _named(lab, "tcpdump"))
            taken = await lab.network.seal("m", epoch=3)
            assert taken is not None
            assert taken.is_truncated
            assert taken.packets == 7
            assert taken.blob.size_bytes == 24 + 7 * (16 + 14 + 28 + 1000)
            guest.close()


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


async def _breached(lab: Lab, count: int) -> set[str]:
    """The machines that whoever watches hears of, once they are that many."""
    heard: set[str] = set()
    async for breach in lab.network.breaches():
        heard.add(breach.machine_id)
        if len(heard) == count:
            return heard
    raise AssertionError("nobody watches")


async def _killed_and_started(lab: Lab) -> None:
    with as_user("root"):
        os.kill(lab.helper.pid, signal.SIGKILL)
        lab.helper.wait(timeout=20)
        await start_again(lab)


async def _recorded(lab: Lab, packets: int) -> None:
    """The recorder has written that many packets of the one machine."""
    with as_user("root"):
        (path,) = (lab.directory / "network").glob("*.pcap")
        await until(lambda: _whole_packets(path) >= packets)


def _named(lab: Lab, word: str) -> list[int]:
    """The helper's processes whose command line has that word in it."""
    return [pid for pid in _descendants(lab.helper.pid) if word.encode() in _words(pid)]


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _whole_packets(path: Path) -> int:
    content, at, count = path.read_bytes(), 24, 0
    while at + 16 <= len(content):
        at += 16 + int.from_bytes(content[at + 8 : at + 12], "little")
        count += at <= len(content)
    return count


def _blob(lab: Lab, sha256: str) -> bytes:
    (path,) = lab.blobs.rglob(sha256)
    return path.read_bytes()


def _descendants(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []  # it has ended meanwhile
    children = [int(word) for word in words]
    return [*children, *(below for child in children for below in _descendants(child))]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def _namespaces() -> set[str]:
    return {target_of(entry) for entry in Path("/proc").glob("[0-9]*/ns/net")}


def _namespaces_without(lab: Lab) -> set[str]:
    mine = {target_of(Path(f"/proc/{pid}/ns/net")) for pid in _descendants(lab.helper.pid)}
    return _namespaces() - mine
