"""A network that is not as it was made: who hears of it, and how soon its guest is cut off."""

import asyncio
from ipaddress import IPv4Address, IPv4Network

import pytest

from services.machines.errors import IsolationBroken
from services.machines.network.rules import Limits, of_machine
from tests.security.network.ends import Guest, Sniffer, as_user
from tests.security.network.lab import HOST, LEASE, OTHER_LEASE, RATE_KIB_S, RESOLVER, SERVER, Lab, first, watched

pytestmark = [pytest.mark.timeout(120)]


LIMITS = Limits(IPv4Address(RESOLVER), RATE_KIB_S, (IPv4Network("127.0.0.1"), IPv4Network(HOST)))


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
    async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
            while "down" not in (await egress.interfaces())["wan0"]:  # noqa: ASYNC110 - the helper does it
                await asyncio.sleep(0.02)
        egress.close()
    guest = Guest.connect("m2", await lab.network.plug("m2", epoch=1))
    await lab.network.open("m2", epoch=2, lease_id=OTHER_LEASE, route="internet")
    with as_user("root"):
        world = Sniffer(lab.world, "inet0")
        guest.send(guest.datagram(SERVER, 9, b"<from the next>"), guest.question())
        await asyncio.to_thread(guest.receive)
        async with asyncio.timeout(60):
            while b"<from the next>" not in world.seen():  # noqa: ASYNC110 - it happens in the kernel
                await asyncio.sleep(0.02)
        world.close()
    with pytest.raises(IsolationBroken):
        await lab.network.verify("m1", epoch=2)
    guest.close()


async def _breached(lab: Lab, count: int) -> set[str]:
    """The machines that whoever watches hears of, once they are that many."""
    heard: set[str] = set()
    async for breach in lab.network.breaches():
        heard.add(breach.machine_id)
        if len(heard) == count:
            return heard
    raise AssertionError("nobody watches")
