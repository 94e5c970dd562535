"""Which packets get out of a guest, measured on everybody who could get one; and what a missing rule does."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest

from contracts.submission import Route
from deploy.local.state import MACHINE_USER
from services.machines.errors import IsolationBroken
from services.machines.network.layout import CARD, guest_mac
from services.machines.network.namespace import Namespace, in_namespace
from services.machines.network.rules import Limits, Ruleset, of_egress, of_machine
from tests.security.network.conduct import NEIGHBOUR, Scene, faults, hostile
from tests.security.network.ends import PATIENCE_S, Guest, Sniffer, as_user
from tests.security.network.lab import HOST, RATE_KIB_S, RESOLVER, Lab, collected, laboratory

pytestmark = [pytest.mark.timeout(280)]

ROUTES: tuple[Route, ...] = ("none", "simulated", "internet")
GUEST = "guest"


@pytest.fixture(name="lab")
async def lab_fixture() -> AsyncIterator[Lab]:
    """A host, a world, a helper that lets the tests see what a missing rule does."""
    async with laboratory(cuts_on_breach=False) as made:
        yield made


@asynccontextmanager
async def scene_of(lab: Lab, route: Route) -> AsyncIterator[Scene]:
    """A guest and a neighbour, both on the route."""
    guest = await plugged(lab, GUEST, route)
    namespace = lab.namespace_of_guest()
    neighbour = await plugged(lab, NEIGHBOUR, route)
    world, host = Sniffer(lab.world, "inet0"), Sniffer(lab.host, "lo")
    try:
        yield Scene(guest, namespace, neighbour, world, host)
    finally:
        for one in (guest, neighbour, world, host, namespace):
            one.close()


async def plugged(lab: Lab, machine_id: str, route: Route) -> Guest:
    """A guest on the route."""
    with as_user(MACHINE_USER):
        path = await lab.network.plug(machine_id, epoch=lab.next_epoch())
        guest = Guest.connect(machine_id, path)
        await lab.network.open(machine_id, epoch=lab.next_epoch(), lease_id=f"lea_{lab.epoch:032x}", route=route)
    return guest


@pytest.mark.promise("P22", "P24", "F6")
@pytest.mark.parametrize("route", ROUTES)
async def test_no_packet_gets_out_but_what_the_route_allows(lab: Lab, route: Route) -> None:
    """Honest questions get what the route gives; of thirty-odd kinds of hostile frames no victim ever sees one."""
    async with scene_of(lab, route) as scene:
        assert await faults(scene, route) == []


@pytest.mark.promise("P22")
async def test_every_sniffer_would_see_every_hostile_frame(lab: Lab) -> None:
    """The control: the same frames, put onto the wire beside a victim instead of into a cable, are all seen there."""
    async with scene_of(lab, "none") as scene:
        attempts = hostile(scene.guest, NEIGHBOUR, scene.mark)
        beside = in_namespace(lab.host.descriptor, lambda: _sender("eth0"))
        for them in attempts.values():
            for frame in them:
                beside.send(frame)
        beside.close()
        seen = await collected(scene.world.seen, [scene.mark(name) for name, them in attempts.items() for _ in them])
        assert [name for name in attempts if scene.mark(name) not in seen] == []


@pytest.mark.promise("P24")
async def test_a_neighbour_would_see_what_is_put_onto_its_card(lab: Lab) -> None:
    """The control of the neighbour's cable: without its fence a frame on its card arrives; with it none does."""
    async with scene_of(lab, "none") as scene:
        inside = Namespace.at(f"/proc/{lab.cables()[1]}/ns/net")
        sender = in_namespace(inside.descriptor, lambda: _sender(CARD))
        frame = scene.guest.datagram("192.168.1.100", 7, b"<to the neighbour>")
        with pytest.raises(OSError, match="buffer space"):  # how the kernel says that its rules refused to send it
            sender.send(frame)
        await inside.load("flush ruleset\n")
        sender.send(frame.replace(b"<to", b"<as"))
        assert await asyncio.to_thread(scene.neighbour.receive_with, b"<as the neighbour>")
        assert b"<to the neighbour>" not in scene.neighbour.pending()
        sender.close()
        inside.close()


@pytest.mark.promise("P22", "P23")
@pytest.mark.parametrize("route", ROUTES)
async def test_each_rule_of_a_machine_is_missed_when_it_is_gone(lab: Lab, route: Route) -> None:
    """Taking any one rule away makes an expectation fail, is told to whoever watches, and is found by a check."""
    async with scene_of(lab, route) as scene:
        rules = of_machine(route, guest_mac(GUEST), _limits())
        assert await _survivors(lab, scene, route, rules, scene.namespace) == []
        await scene.namespace.load(rules.text())
        assert await faults(scene, route) == []


@pytest.mark.promise("P22", "P23")
async def test_each_rule_of_the_egress_namespace_is_missed_when_it_is_gone(lab: Lab) -> None:
    """The same for the rules that all machines on the route internet share."""
    async with scene_of(lab, "internet") as scene:
        egress = lab.namespace_of_egress()
        assert await _survivors(lab, scene, "internet", of_egress(), egress) == []
        await egress.load(of_egress().text())
        assert await faults(scene, "internet") == []
        egress.close()


async def _survivors(lab: Lab, scene: Scene, route: Route, rules: Ruleset, place: Namespace) -> list[str]:
    """The rules whose absence nothing noticed."""
    unnoticed = []
    scene.guest.patience_s = 0.7  # most answers are missed here, and one that only comes late is a miss too
    for gone in rules.places():
        chain, rule = gone
        text = rules.chains[chain].rules[rule]
        await place.load(rules.without(gone).text())
        if not await faults(scene, route):
            unnoticed.append(f"no packet misses: {text}")
        with as_user(MACHINE_USER), pytest.raises(IsolationBroken):
            await lab.network.verify(GUEST, epoch=lab.epoch)
    scene.guest.patience_s = PATIENCE_S
    return unnoticed


def _limits() -> Limits:
    return Limits(IPv4Address(RESOLVER), RATE_KIB_S, (IPv4Network("127.0.0.1"), IPv4Network(HOST)))


def _sender(interface: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    made.bind((interface, 0))
    return made
