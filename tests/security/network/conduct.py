"""What is expected of each route: what a guest gets on it, and what nobody else ever gets from a guest."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address

from contracts.submission import Route
from services.machines.network.layout import (
    CARD,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    SIMULATED_ADDRESS,
    guest_mac,
    link_addresses,
)
from services.machines.network.namespace import IP, Namespace
from tests.security.network import frames
from tests.security.network.ends import Guest, Sniffer
from tests.security.network.lab import EGRESS, HOST, OTHERS, RESOLVER, SERVER

NEIGHBOUR = "neighbour"
FLOOD_FRAMES = 300
FLOOD_BYTES = 1000
SETTLED_TIMEOUT_S = 10.0
_ME, _THEM = str(GUEST.ip), "192.168.1.101"


@dataclass
class Scene:
    """A guest, its namespace, and everybody who might be hurt by it, each with a sniffer or a cable of its own."""

    guest: Guest
    namespace: Namespace
    neighbour: Guest
    world: Sniffer
    host: Sniffer
    round: int = 0

    def mark(self, name: str) -> bytes:
        """Tells the frames of this question and this round from all others."""
        return f"<{name}/{self.round}>".encode()

    async def settled(self) -> None:
        """Every frame that the guest sent has been through the rules."""
        async with asyncio.timeout(SETTLED_TIMEOUT_S):
            while await self._arrived() < self.guest.sent:  # noqa: ASYNC110 - it happens in the kernel
                await asyncio.sleep(0.02)

    async def _arrived(self) -> int:
        shown = json.loads(await self.namespace.run(IP, "-j", "-s", "link", "show", CARD))
        return int(shown[0]["stats64"]["rx"]["packets"])

    def caught(self) -> bytes:
        """What every victim has got since it was asked last."""
        return self.world.seen() + self.host.seen() + self.neighbour.pending()


def hostile(guest: Guest, neighbour: str, mark: Callable[[str], bytes]) -> dict[str, list[bytes]]:
    """Frames that no route lets through, by what is wrong with them."""
    good = guest.datagram(SERVER, 7, b"".ljust(20, b"."))
    to_neighbour = guest_mac(neighbour)

    def datagram(name: str, target: str = SERVER, **changed: str) -> bytes:
        return guest.datagram(target, 7, mark(name), **changed)

    def ip(name: str, target: str = SERVER, *, hardware: str = GATEWAY_MAC, **fields: int | bytes | bool) -> bytes:
        payload = frames.udp(_ME, target, 7, mark(name))
        packet = frames.ipv4(_ME, target, frames.UDP, payload, **fields)  # type: ignore[arg-type]  # as they are named
        return frames.ethernet("ip", packet, source=guest.mac, target=hardware)

    def ip6(name: str, target: str, payload: bytes, hardware: str) -> bytes:
        following = frames.UDP if name.endswith("datagram") else frames.ICMPV6
        packet = frames.ipv6("fe80::1", target, following, payload + mark(name))
        return frames.ethernet("ip6", packet, source=guest.mac, target=hardware)

    def arp(name: str, operation: int, sender_mac: str, sender: str, wanted: str, *, card: str = guest.mac) -> bytes:
        body = frames.arp(operation=operation, sender_mac=sender_mac, sender=sender, wanted=wanted, mark=mark(name))
        return frames.ethernet("arp", body, source=card)

    made = {
        "IPv6 datagram": [ip6("IPv6 datagram", "2001:db8::1", bytes(8), GATEWAY_MAC)],
        "IPv6 to all": [ip6("IPv6 to all", "ff02::1", bytes(8), "33:33:00:00:00:01")],
        "router advertisement": [
            ip6("router advertisement", "ff02::1", frames.router_advertisement(b""), "33:33:00:00:00:01")
        ],
        "VLAN": [frames.vlan(datagram("VLAN"), 5)],
        "VLAN priority": [frames.vlan(datagram("VLAN priority"), 0)],
        "VLAN in VLAN": [frames.vlan(frames.vlan(datagram("VLAN in VLAN"), 5), 7, kind="qinq")],
        "another's MAC": [_as(datagram("another's MAC"), to_neighbour)],
        "another's address": [datagram("another's address", source=_THEM)],
        "a public address": [datagram("a public address", source=SERVER)],
        "the gateway's address": [datagram("the gateway's address", source=str(GATEWAY.ip))],
        "first fragment": [ip("first fragment", more=True)],
        "last fragment": [ip("last fragment", fragment=64)],
        "ARP claims the gateway": [arp("ARP claims the gateway", 2, guest.mac, str(GATEWAY.ip), _ME)],
        "ARP for another": [arp("ARP for another", 1, guest.mac, _ME, _THEM)],
        "ARP as another": [arp("ARP as another", 1, to_neighbour, _THEM, str(GATEWAY.ip))],
        "ARP from another card": [arp("ARP from another card", 1, guest.mac, _ME, str(GATEWAY.ip), card=to_neighbour)],
        "RARP": [frames.ethernet("rarp", mark("RARP"), source=guest.mac)],
        "DHCP server": [
            frames.ethernet(
                "ip",
                frames.ipv4(
                    _ME,
                    "255.255.255.255",
                    frames.UDP,
                    frames.udp(_ME, "255.255.255.255", 68, frames.lease_offer(mark("DHCP server")), source_port=67),
                ),
                source=guest.mac,
            )
        ],
        "broadcast": [ip("broadcast", hardware=frames.BROADCAST)],
        "multicast": [ip("multicast", "224.0.0.251", hardware="01:00:5e:00:00:fb")],
        "hairpin by MAC": [ip("hairpin by MAC", _ME, hardware=to_neighbour)],
        "source route": [ip("source route", options=b"\x83\x0b\x04" + IPv4Address(SERVER).packed * 2 + b"\0")],
        "another protocol": [
            guest.packet(SERVER, number, mark("another protocol")) for number in (2, 4, 41, 47, 50, 103, 132)
        ],
        "redirect": [guest.packet(SERVER, frames.ICMP, frames.echo(mark("redirect"), kind=5))],
        "the host": [datagram("the host", HOST), guest.packet(HOST, frames.ICMP, frames.echo(mark("the host")))],
        "the egress card": [datagram("the egress card", EGRESS)],
        "hairpin by link": [
            datagram("hairpin by link", str(end.ip)) for slot in range(3) for end in link_addresses(slot)
        ],
        "loopback": [datagram("loopback", "127.0.0.1")],
        "the resolver's other ports": [datagram("the resolver's other ports", RESOLVER)],
        "a short frame": [good[:14] + mark("a short frame")],
    }
    for address in OTHERS:
        made[f"to {address}"] = [
            datagram(f"to {address}", address),
            guest.packet(address, frames.ICMP, frames.echo(mark(f"to {address}"))),
        ]
    return made


async def faults(scene: Scene, route: Route) -> list[str]:
    """Every expectation of the route that does not hold, by its name."""
    scene.round += 1
    scene.guest.drain()
    scene.caught()
    questions = {"none": _none, "simulated": _simulated, "internet": _internet}[route]
    found = await questions(scene)
    return found + await _leaks(scene)


async def _leaks(scene: Scene) -> list[str]:
    """Hostile frames that reached anybody, or that the guard did not count."""
    before = await counted(scene.namespace, "dropped")
    attempts = hostile(scene.guest, NEIGHBOUR, scene.mark)
    for them in attempts.values():
        scene.guest.send(*them)
    await scene.settled()
    after = await counted(scene.namespace, "dropped")
    caught = scene.caught()
    found = [f"leaked: {name}" for name in attempts if scene.mark(name) in caught]
    return found if after > before else [*found, "no hostile frame was counted"]


async def counted(namespace: Namespace, name: str) -> int:
    """Where a counter of the guard stands; 0 when there is none."""
    listed = await namespace.listed()
    found = [one["counter"]["packets"] for one in listed if one.get("counter", {}).get("name") == name]
    return int(found[0]) if found else 0


async def _none(scene: Scene) -> list[str]:
    """Nothing gets out, and nothing is answered."""
    guest, mark = scene.guest, scene.mark("honest")
    guest.send(guest.question(), guest.datagram(SERVER, 7, mark), guest.packet(SERVER, frames.ICMP, frames.echo(mark)))
    await scene.settled()
    answered = guest.pending()
    return ["something was answered"] * bool(answered) + ["an honest frame got out"] * (mark in scene.caught())


async def _simulated(scene: Scene) -> list[str]:
    """Every question is answered from within, and no question gets out."""
    guest = scene.guest
    mark = scene.mark("honest")
    name = f"n{scene.round}.example"
    asked: dict[str, Callable[[], bool]] = {
        "the gateway": lambda: _answered(guest, guest.question(), guest.mac_bytes() + GUEST.ip.packed),
        "a name": lambda: _answered(
            guest, guest.datagram(SERVER, 53, frames.name_question(name)), IPv4Address(SIMULATED_ADDRESS).packed
        ),
        "a page": lambda: b"HTTP/1" in guest.fetch("192.0.2.1", 80, b"GET / HTTP/1.0\r\nX: " + mark + b"\r\n\r\n"),
        "a mail server": lambda: guest.fetch("192.0.2.1", 25).startswith(b"220"),
        "another port of TCP": lambda: bool(guest.knock("192.0.2.1", 4444)),
        "another port of UDP": lambda: _answered(guest, guest.datagram("192.0.2.1", 5555, mark), mark),
        "an echo": lambda: _answered(guest, guest.packet(str(GATEWAY.ip), frames.ICMP, frames.echo(mark)), mark),
    }
    found = await _unanswered(asked)
    return found + ["an honest frame got out"] * (mark in scene.caught())


async def _internet(scene: Scene) -> list[str]:
    """What is public is reached, under the egress card's address; names only through the resolver."""
    guest, mark = scene.guest, scene.mark("honest")
    asked: dict[str, Callable[[], bool]] = {
        "the gateway": lambda: _answered(guest, guest.question(), guest.mac_bytes() + GUEST.ip.packed),
        "an echo": lambda: _answered(guest, guest.packet(SERVER, frames.ICMP, frames.echo(mark)), mark),
        "a refused connection": lambda: bool(guest.knock(SERVER, 80)),
    }
    found = await _unanswered(asked)
    guest.send(guest.datagram(SERVER, 9, mark + b"data"), guest.datagram(SERVER, 53, mark + b"udp name"))
    asked_name = frames.tcp(_ME, SERVER, 53, payload=mark + b"tcp name", source_port=guest.next_port())
    guest.send(guest.packet(SERVER, frames.TCP, asked_name))
    await scene.settled()
    await _echoed(guest)
    caught = scene.world.packets()
    expected = {b"data": SERVER, b"udp name": RESOLVER, b"tcp name": RESOLVER}
    for what, target in expected.items():
        to = {_addresses(packet) for packet in caught if mark + what in packet and packet[23] != frames.ICMP}
        if to != {(EGRESS, target)}:
            found.append(f"{what.decode()} went {sorted(to)}")
    return found + await _flood(scene)


async def _flood(scene: Scene) -> list[str]:
    """More than its share does not get out at once."""
    guest, mark = scene.guest, scene.mark("flood")
    guest.send(*(guest.datagram(SERVER, 9, mark.ljust(FLOOD_BYTES, b".")) for _ in range(FLOOD_FRAMES)))
    await scene.settled()
    through = sum(mark in packet for packet in scene.world.packets())
    return [f"all {through} frames of a flood got out"] * (through >= FLOOD_FRAMES)


async def _echoed(guest: Guest) -> None:
    """What was sent before has arrived: an answer to something sent after it is here, or never comes."""
    fence = f"<fence {guest.next_port()}>".encode()
    guest.send(guest.packet(SERVER, frames.ICMP, frames.echo(fence)))
    with suppress(TimeoutError):
        await asyncio.to_thread(guest.receive_with, fence)


async def _unanswered(asked: dict[str, Callable[[], bool]]) -> list[str]:
    found = []
    for what, ask in asked.items():
        try:
            is_right = await asyncio.to_thread(ask)
        except TimeoutError:
            is_right = False
        found += [f"no answer: {what}"] * (not is_right)
    return found


def _answered(guest: Guest, frame: bytes, expected: bytes) -> bool:
    guest.send(frame)
    return bool(guest.receive_with(expected))


def _addresses(packet: bytes) -> tuple[str, str]:
    return str(IPv4Address(packet[26:30])), str(IPv4Address(packet[30:34]))


def _as(frame: bytes, source: str) -> bytes:
    return frame[:6] + frames.mac(source) + frame[12:]
