"""What is left of a network: the record of its packets, and nothing else when it or its helper is gone."""

import asyncio
from pathlib import Path

import pytest

from deploy.local.state import MACHINE_USER
from tests.security.network.ends import Guest, as_user
from tests.security.network.lab import LEASE, SERVER, Lab, kill_and_start, laboratory, target_of, until
from tests.security.network.processes import descendants, runs

pytestmark = [pytest.mark.timeout(120)]


@pytest.mark.promise("P5")
async def test_a_killed_helper_leaves_nothing_behind(lab: Lab) -> None:
    """Namespaces, cards, links, rules and processes end with it; the next one starts with nothing."""
    for number, route in enumerate(("none", "simulated", "internet")):
        await lab.network.plug(f"m{number}", epoch=1)
        await lab.network.open(f"m{number}", epoch=2, lease_id=LEASE, route=route)  # type: ignore[arg-type]  # a Route
    with as_user("root"):
        before = _namespaces()
        assert len(before - _namespaces_without(lab)) >= 3, "the control: there were namespaces to lose"
        mine = descendants(lab.helper.pid)
        assert len(mine) > 5, "the control: there were processes to lose"
    await kill_and_start(lab)
    with as_user("root"):
        await until(lambda: not any(map(runs, mine)))
        assert set(await lab.host.interfaces()) == {"lo", "eth0"}
    assert await lab.network.observe() == []


@pytest.mark.promise("P5")
async def test_a_closed_network_is_gone(lab: Lab) -> None:
    """Its namespace, its processes, its socket and its link are; closing again is nothing."""
    await lab.network.plug("m", epoch=1)
    await lab.network.open("m", epoch=2, lease_id=LEASE, route="internet")
    with as_user("root"):
        mine = descendants(lab.helper.pid)
        egress = lab.namespace_of_egress()
        assert "lnk0" in await egress.interfaces(), "the control: there was a link"
    for _ in range(2):
        await lab.network.close("m", epoch=3)
    with as_user("root"):
        assert [pid for pid in mine if runs(pid)] == []
        assert "lnk0" not in await egress.interfaces()
        egress.close()
    assert list((lab.directory / "network").glob("*.sock")) == []


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
            await until(lambda: not lab.processes("tcpdump"))
            taken = await lab.network.seal("m", epoch=3)
            assert taken is not None
            assert taken.is_truncated
            assert taken.packets == 7
            assert taken.blob.size_bytes == 24 + 7 * (16 + 14 + 28 + 1000)
            guest.close()


async def _recorded(lab: Lab, packets: int) -> None:
    """The recorder has written that many packets of the one machine."""
    with as_user("root"):
        (path,) = (lab.directory / "network").glob("*.pcap")
        await until(lambda: _whole_packets(path) >= packets)


def _whole_packets(path: Path) -> int:
    content, at, count = path.read_bytes(), 24, 0
    while at + 16 <= len(content):
        at += 16 + int.from_bytes(content[at + 8 : at + 12], "little")
        count += at <= len(content)
    return count


def _blob(lab: Lab, sha256: str) -> bytes:
    (path,) = lab.blobs.rglob(sha256)
    return path.read_bytes()


def _namespaces() -> set[str]:
    return {target_of(entry) for entry in Path("/proc").glob("[0-9]*/ns/net")}


def _namespaces_without(lab: Lab) -> set[str]:
    mine = {target_of(Path(f"/proc/{pid}/ns/net")) for pid in descendants(lab.helper.pid)}
    return _namespaces() - mine
