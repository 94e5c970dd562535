"""The egress namespace: the only way from machines to the outside, and none from one machine to another.

Its way out is a card of its own on the host's interface (macvlan). The kernel passes nothing between such a card and
the host that it sits on, and the host forwards nothing.
"""

import asyncio
import json
import os
from ipaddress import IPv4Network

from services.machines.network.layout import LINK_PREFIX, OUTSIDE, SLOTS_MAX, UPLINK, link_addresses, link_name
from services.machines.network.namespace import IP, SYSCTL, Namespace, run
from services.machines.network.reference import differences, expected_rules
from services.machines.network.rules import Limits, of_egress
from services.machines.network.settings import EgressSettings
from services.machines.network.words import NetworkFault


class Egress:
    """The way out that an operator wrote down. It is made with the first machine that needs it."""

    def __init__(self, settings: EgressSettings) -> None:
        self._settings = settings
        self._namespace: Namespace | None = None
        self._slots: dict[str, int] = {}
        self._furnishing = asyncio.Lock()

    async def limits(self) -> Limits:
        """What a guest may use up now; the host's own addresses are out of its reach."""
        shown = json.loads(await run(IP, "-j", "-4", "address", "show"))
        own = [IPv4Network(one["local"]) for link in shown for one in link["addr_info"]]
        return Limits(self._settings.resolver, self._settings.rate_kib_s, tuple(own))

    async def connect(self, machine_id: str, namespace: Namespace) -> None:
        """The machine's namespace has its link and its default route. Raises NetworkFault."""
        await self.disconnect(machine_id)
        egress = await self._standing()
        taken = set(self._slots.values())
        slot = next((slot for slot in range(SLOTS_MAX) if slot not in taken), None)
        if slot is None:
            raise NetworkFault(f"all {SLOTS_MAX} links of the egress namespace are taken")
        self._slots[machine_id] = slot
        inner, outer = link_addresses(slot)
        # Made inside the egress namespace: at no moment is there a link that the host could see.
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

    async def disconnect(self, machine_id: str) -> None:
        """The machine has no link. The kernel removed it with the machine's namespace, or it is removed now."""
        slot = self._slots.pop(machine_id, None)
        if slot is not None and self._namespace is not None:
            name = link_name(slot)
            if name in await self._namespace.interfaces():
                await self._namespace.run(IP, "link", "delete", name)

    def address_of(self, machine_id: str) -> str:
        """The machine's own end of its link."""
        return str(link_addresses(self._slots[machine_id])[0])

    def gateway_of(self, machine_id: str) -> str:
        """The other end."""
        return str(link_addresses(self._slots[machine_id])[1].ip)

    async def faults(self) -> list[str]:
        """Every way in which the egress namespace is not what it must be."""
        if self._namespace is None:
            return ["there is no egress namespace"]
        faults = differences("rules of egress", await expected_rules(of_egress()), await self._namespace.rules())
        interfaces = await self._namespace.interfaces()
        strangers = [name for name in interfaces if name not in {"lo", OUTSIDE} and not name.startswith(LINK_PREFIX)]
        if strangers:
            faults.append(f"the egress namespace has other interfaces: {', '.join(strangers)}")
        return faults

    def close(self) -> None:
        """The egress namespace is gone."""
        if self._namespace is not None:
            self._namespace.close()
            self._namespace = None

    async def _standing(self) -> Namespace:
        async with self._furnishing:
            if self._namespace is None:
                made = Namespace()
                try:
                    await self._furnish(made)
                except BaseException:
                    made.close()
                    raise
                self._namespace = made
            return self._namespace

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


async def quieten(namespace: Namespace) -> None:
    """The namespace's kernel speaks no IPv6, redirects nobody and believes no redirect."""
    await namespace.run(
        *(SYSCTL, "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"),
        *("net.ipv4.ip_forward=0", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0"),
        *("net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.default.accept_redirects=0"),
        *("net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2"),
    )
