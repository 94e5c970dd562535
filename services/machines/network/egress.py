"""The egress namespace: the only way from machines to the outside, and none from one machine to another.

Its way out is a card of its own on the host's interface (macvlan). The kernel passes nothing between such a card and
the host that it sits on, and the host forwards nothing.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Interface, IPv4Network

from services.machines.network import netlink
from services.machines.network.layout import OUTSIDE, SLOTS_MAX, UPLINK, link_addresses, link_name
from services.machines.network.namespace import IP, SYSCTL, Namespace, in_namespace, run
from services.machines.network.reference import differences, expected_rules
from services.machines.network.rules import Limits, of_egress
from services.machines.network.settings import EgressSettings
from services.machines.network.steering import expected_steering, steering
from services.machines.network.words import NetworkFault


class Egress:
    """The way out that an operator wrote down. It is made with the first machine that needs it.

    Once it was seen to be changed nobody gets out by it any more, whatever becomes of it. The next machine gets a new
    one, and those that were on the old one are on none.
    """

    def __init__(self, settings: EgressSettings, on_change: Callable[[], None], *, cuts_on_breach: bool) -> None:
        """`on_change` hears that something changed in the namespace; in what way is for `faults` to say."""
        self._settings = settings
        self._on_change = on_change
        self._cuts_on_breach = cuts_on_breach
        self._namespace: Namespace | None = None
        self._watches: list[socket.socket] = []
        self._slots: dict[str, int] = {}
        self._broken: list[str] = []
        self._turn = asyncio.Lock()

    @property
    def is_made(self) -> bool:
        """Whether there is a namespace."""
        return self._namespace is not None

    async def limits(self) -> Limits:
        """What a guest may use up now; the host's own addresses are out of its reach."""
        shown = json.loads(await run(IP, "-j", "-4", "address", "show"))
        own = [IPv4Network(one["local"]) for link in shown for one in link["addr_info"]]
        return Limits(self._settings.resolver, self._settings.rate_kib_s, tuple(own))

    async def connect(self, machine_id: str, namespace: Namespace) -> None:
        """The machine's namespace has its link and its default route. Raises NetworkFault."""
        async with self._turn:
            await self._disconnect(machine_id)
            egress = await self._standing()
            taken = set(self._slots.values())
            slot = next((slot for slot in range(SLOTS_MAX) if slot not in taken), None)
            if slot is None:
                raise NetworkFault(f"all {SLOTS_MAX} links of the egress namespace are taken")
            self._slots[machine_id] = slot
            await _link(egress, namespace, slot)

    async def disconnect(self, machine_id: str) -> None:
        """The machine has no link. The kernel removed it with the machine's namespace, or it is removed now."""
        async with self._turn:
            await self._disconnect(machine_id)

    def ends_of(self, machine_id: str) -> tuple[IPv4Interface, IPv4Interface] | None:
        """The two ends of the machine's link, its own first; None when it has none."""
        slot = self._slots.get(machine_id)
        return None if slot is None else link_addresses(slot)

    async def faults(self) -> list[str]:
        """Every way in which the egress namespace is, or was seen to be, not what it must be. Raises NetworkFault."""
        async with self._turn:
            if self._namespace is None:
                return ["there is no egress namespace"]
            found = self._broken or await self._differences(self._namespace)
            if found and not self._broken and self._cuts_on_breach:
                self._broken = found
                with suppress(NetworkFault):  # a card that is gone lets nobody out either
                    await self._namespace.run(IP, "link", "set", OUTSIDE, "down")
            return found

    def close(self) -> None:
        """The egress namespace is gone."""
        for watch in self._watches:
            asyncio.get_running_loop().remove_reader(watch)
            watch.close()
        self._watches.clear()
        if self._namespace is not None:
            self._namespace.close()
            self._namespace = None
        self._slots.clear()
        self._broken = []

    async def _differences(self, egress: Namespace) -> list[str]:
        """A link that is missing is its own machine's affair: what is here must not be more than there should be."""
        rules, interfaces, routes, forwards, steered = await asyncio.gather(
            egress.rules(),
            egress.interfaces(),
            egress.routes(),
            egress.setting("net.ipv4.ip_forward"),
            steering(egress),
        )
        wanted_interfaces = {"lo": [], OUTSIDE: [str(self._settings.address)]}
        wanted_routes = [f"default {self._settings.gateway} {OUTSIDE}", f"{self._settings.address.network} - {OUTSIDE}"]
        for slot in self._slots.values():
            name, outer = link_name(slot), link_addresses(slot)[1]
            if name in interfaces:
                wanted_interfaces[name] = [str(outer)]
                wanted_routes.append(f"{outer.network} - {name}")
        faults = differences("rules of egress", await expected_rules(of_egress()), rules)
        faults += differences("steering of egress", await expected_steering(), steered)
        for what, wanted, found in (
            ("interfaces", wanted_interfaces, interfaces),
            ("routes", sorted(wanted_routes), routes),
            ("forwarding", "1", forwards),
        ):
            if wanted != found:
                faults.append(f"{what} of egress: {json.dumps(found)} instead of {json.dumps(wanted)}")
        return faults

    async def _disconnect(self, machine_id: str) -> None:
        slot = self._slots.get(machine_id)
        if slot is not None and self._namespace is not None:
            name = link_name(slot)
            if name in await self._namespace.interfaces():
                await self._namespace.run(IP, "link", "delete", name)
        self._slots.pop(machine_id, None)

    async def _standing(self) -> Namespace:
        if self._broken:
            self.close()
        if self._namespace is None:
            made = Namespace()
            try:
                await self._furnish(made)
                self._watch(made)
            except BaseException:
                made.close()
                raise
            self._namespace = made
        return self._namespace

    def _watch(self, made: Namespace) -> None:
        self._watches = in_namespace(made.descriptor, netlink.watches)
        for watch in self._watches:
            asyncio.get_running_loop().add_reader(watch, self._heard, watch)

    def _heard(self, watch: socket.socket) -> None:
        netlink.drain(watch)
        self._on_change()

    async def _furnish(self, made: Namespace) -> None:
        chosen = self._settings
        await quieten(made)
        await made.load(of_egress().text())
        temporary = f"mbx{os.getpid():x}"[:15]
        parent = ("link", chosen.interface, "name", temporary)
        await run(IP, "link", "add", *parent, "type", "macvlan", "mode", "private")
        await run(
            *(IP, "link", "set", temporary, "netns", f"/proc/self/fd/{made.descriptor}"), descriptors=(made.descriptor,)
        )
        await made.run(IP, "link", "set", temporary, "name", OUTSIDE)
        await made.run(IP, "address", "add", str(chosen.address), "dev", OUTSIDE)
        await made.run(IP, "link", "set", OUTSIDE, "up")
        await made.run(IP, "route", "add", "default", "via", str(chosen.gateway), "dev", OUTSIDE)
        await made.run(SYSCTL, "-q", "-w", "net.ipv4.ip_forward=1")


async def _link(egress: Namespace, namespace: Namespace, slot: int) -> None:
    """A cable between both, made inside the egress namespace: at no moment is there a link that the host could see."""
    inner, outer = link_addresses(slot)
    await egress.run(IP, "link", "add", link_name(slot), "type", "veth", "peer", "name", UPLINK)
    await run(
        *egress.argv([IP, "link", "set", UPLINK, "netns", f"/proc/self/fd/{namespace.descriptor}"]),
        descriptors=(egress.descriptor, namespace.descriptor),
    )
    await egress.run(IP, "address", "add", str(outer), "dev", link_name(slot))
    await egress.run(IP, "link", "set", link_name(slot), "up")
    await namespace.run(IP, "address", "add", str(inner), "dev", UPLINK)
    await namespace.run(IP, "link", "set", UPLINK, "up")
    await namespace.run(IP, "route", "add", "default", "via", str(outer.ip), "dev", UPLINK)


async def quieten(namespace: Namespace) -> None:
    """The namespace's kernel speaks no IPv6, redirects nobody and believes no redirect."""
    await namespace.run(
        *(SYSCTL, "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"),
        *("net.ipv4.ip_forward=0", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0"),
        *("net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.default.accept_redirects=0"),
        *("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"),
    )
