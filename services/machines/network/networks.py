"""The analysis networks of this host's machines: made, opened, checked and taken away.

What a machine has is one namespace with one cable. Plugged, it leads nowhere; open, it leads where the route says.
Nothing is kept on disk but the fence, and nothing needs to be: what this process held is gone when it is.
"""

import asyncio
import hashlib
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from contracts.submission import Route
from services.machines.adapters.host_fence import HostFence, highest_of_all
from services.machines.domain.fence import Claim
from services.machines.network import simulation
from services.machines.network.allowance import Allowance
from services.machines.network.capture import Recording
from services.machines.network.children import Account, Child
from services.machines.network.doubts import Doubted
from services.machines.network.egress import Egress, quieten
from services.machines.network.layout import (
    CARD,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    UPLINK,
    guest_mac,
    socket_name,
)
from services.machines.network.namespace import IP, SYSCTL, Namespace, lasting
from services.machines.network.reference import differences, expected_rules
from services.machines.network.rules import DROPPED, PASSED, Limits, Ruleset, of_machine
from services.machines.network.settings import HelperSettings, load_egress
from services.machines.network.steering import expected_steering, steering
from services.machines.network.words import FENCES_MAX, Capture, NetworkFault

_CABLE_TIMEOUT_S = 15.0
_SOCKET_BACKLOG = 1
_PYTHON_MODULE = ("-P", "-m", "services.machines.network.cable")


class NoSuchNetwork(Exception):
    """the machine has no network of that epoch"""


class Refused(Exception):
    """no operator allows it"""


class Breached(Exception):
    """what the kernel has is not what the route says"""


@dataclass
class Network:
    """One machine's network, as it was made."""

    machine_id: str
    epoch: int
    namespace: Namespace
    cable: Child
    socket: Path
    route: Route = "none"
    lease_id: str | None = None
    limits: Limits | None = None
    services: Child | None = None
    recording: Recording | None = None
    ears: list["asyncio.Task[None]"] = field(default_factory=list)

    def rules(self) -> Ruleset:
        """What its namespace must have."""
        return of_machine(self.route, guest_mac(self.machine_id), self.limits)


@dataclass(frozen=True)
class Seen:
    """What a check saw: a digest of what the kernel has, and what the guest's frames came to."""

    rules_sha256: str
    passed: int
    dropped: int


class Networks:
    """Every network of this host."""

    def __init__(self, settings: HelperSettings, python: Path, *, on_change: Callable[[Doubted], None]) -> None:
        """`on_change` hears whose namespace changed; in what way is for `verify` and `faults_of_egress` to say."""
        self._settings = settings
        self._python = python
        self._on_change = on_change
        self._account = Account.named(settings.network_user)
        self._guests = Account.named(settings.machines_user)
        self._blobs = Account.named(settings.services_user)
        self._allowance = Allowance(settings.machines_file)
        self._networks: dict[str, Network] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._egress: Egress | None = None

    async def start(self) -> None:
        """What an earlier helper left in the directory is gone, and the operator's way out is known."""
        for leftover in (*self._settings.directory.glob("*.sock"), *self._settings.directory.glob("*.pcap")):
            leftover.unlink(missing_ok=True)
        egress = load_egress(self._settings.machines_file)
        if egress is not None:
            self._egress = Egress(egress, lambda: self._on_change(None), cuts_on_breach=self._settings.cuts_on_breach)

    def routes(self) -> tuple[Route, ...]:
        """What this host can open."""
        simulated: tuple[Route, ...] = ("simulated",) if simulation.is_installed() else ()
        internet: tuple[Route, ...] = ("internet",) if self._egress is not None else ()
        return ("none", *simulated, *internet)

    def standing(self) -> list[Network]:
        """Every network there is."""
        return list(self._networks.values())

    def standing_of(self, machine_id: str) -> Network | None:
        """The machine's network, if it has one."""
        return self._networks.get(machine_id)

    async def fences(self, after: str | None) -> dict[str, int]:
        """Those of a bounded number of machines, in the order of their names, from the first after that one."""
        all_of_them = await asyncio.to_thread(highest_of_all, self._settings.directory / "fences")
        names = sorted(name for name in all_of_them if after is None or name > after)
        return {name: all_of_them[name] for name in names[:FENCES_MAX]}

    async def plug(self, machine_id: str, epoch: int, claim: Claim | None) -> Path:
        """A fresh cable that leads nowhere; the socket that the machine's card connects to. Raises NetworkFault."""
        async with self._turn(machine_id):
            self._advance(machine_id, epoch, claim)
            await self._drop(machine_id)
            return await self._plugged(machine_id, epoch)

    async def _plugged(self, machine_id: str, epoch: int) -> Path:
        namespace = Namespace()
        where = self._settings.directory / socket_name(machine_id)
        try:
            await quieten(namespace)
            cable = await self._cable(namespace, where)
        except BaseException:
            namespace.close()
            raise
        network = Network(machine_id, epoch, namespace, cable, where)
        self._networks[machine_id] = network
        try:
            await namespace.load(network.rules().text())
            await namespace.run(IP, "link", "set", CARD, "address", GATEWAY_MAC, "up")
            await self._checked(network)
        except BaseException:
            await self._drop(machine_id)
            raise
        network.ears.append(cable.follow(lambda _line: self._on_change(machine_id)))
        return where

    async def open(self, machine_id: str, epoch: int, claim: Claim | None, *, lease_id: str, route: Route) -> Seen:
        """The machine is on the route, and was seen to be. Raises NetworkFault, NoSuchNetwork, Breached, Refused.

        Whoever asks again for the same lease gets the same network; another lease or route is refused.
        """
        if not self._allowance.allows(machine_id, route):
            raise Refused(f"{self._settings.machines_file} does not give {machine_id} the route {route}")
        async with self._turn(machine_id):
            self._advance(machine_id, epoch, claim)
            network = self._of(machine_id)
            if network.lease_id is not None:
                if (network.lease_id, network.route, network.epoch) != (lease_id, route, epoch):
                    raise NetworkFault(f"{machine_id} is open for lease {network.lease_id} on {network.route}")
                return await self._checked(network)
            as_plugged = await self._checked(network)  # whatever happened since
            if route == "none":
                network.epoch, network.lease_id = epoch, lease_id
                return as_plugged
            try:
                return await self._opened(network, epoch, lease_id, route)
            except BaseException:
                await self._drop(machine_id)  # half open is worse than none
                raise

    async def verify(self, machine_id: str, epoch: int, claim: Claim | None) -> Seen:
        """The kernel has exactly what the route says. Raises Breached, NoSuchNetwork."""
        async with self._turn(machine_id):
            self._fence(machine_id).check(epoch, claim)
            return await self._checked(self._of(machine_id))

    async def faults_of_egress(self) -> list[str]:
        """Every way in which the egress namespace is not what it must be; it is cut off then. Raises NetworkFault."""
        return [] if self._egress is None or not self._egress.is_made else await self._egress.faults()

    async def look(self, machine_id: str) -> Seen:
        """The same, whoever has the machine by now: a network is broken through until it is gone."""
        async with self._turn(machine_id):
            return await self._checked(self._of(machine_id))

    async def cut(self, machine_id: str) -> None:
        """Nothing passes the machine's card any more, whatever its rules are; the network stands to be looked at."""
        network = self._networks.get(machine_id)
        if network is not None and self._settings.cuts_on_breach:
            await network.namespace.run(IP, "link", "set", CARD, "down")

    async def seal(self, machine_id: str, epoch: int, claim: Claim | None) -> Capture | None:
        """The record of packets has ended and is in the object store; None when there is none."""
        async with self._turn(machine_id):
            self._advance(machine_id, epoch, claim)
            network = self._networks.get(machine_id)
            if network is None or network.recording is None:
                return None
            return await network.recording.seal(self._settings.blob_dir, self._blobs)

    async def close(self, machine_id: str, epoch: int, claim: Claim | None) -> None:
        """Nothing of the machine's network is left."""
        async with self._turn(machine_id):
            self._advance(machine_id, epoch, claim)
            await self._drop(machine_id)

    async def close_all(self) -> None:
        """Nothing of any network is left."""
        for machine_id in list(self._networks):
            async with self._turn(machine_id):
                await self._drop(machine_id)
        if self._egress is not None:
            self._egress.close()

    async def _opened(self, network: Network, epoch: int, lease_id: str, route: Route) -> Seen:
        if route not in self.routes():
            raise NetworkFault(f"this host does not offer the route {route}")
        network.epoch, network.lease_id, network.route = epoch, lease_id, route
        await self._record(network, lease_id)
        await self._address(network)
        if route == "simulated":
            network.services = await simulation.start(network.namespace, self._account)
        if route == "internet":
            await self._lead_out(network)
        # The last step: until here the rules let nothing pass.
        await network.namespace.load(network.rules().text())
        return await self._checked(network)

    async def _record(self, network: Network, lease_id: str) -> None:
        where = self._settings.directory / f"{network.socket.stem}.pcap"
        network.recording = await Recording.start(
            network.namespace, self._account, where, lease_id=lease_id, max_bytes=self._settings.capture_max_bytes
        )

    async def _address(self, network: Network) -> None:
        inside = network.namespace
        await inside.run(IP, "address", "add", str(GATEWAY), "dev", CARD)
        entry = (str(GUEST.ip), "lladdr", guest_mac(network.machine_id), "dev", CARD, "nud", "permanent")
        await inside.run(IP, "neighbour", "replace", *entry)

    async def _lead_out(self, network: Network) -> None:
        if self._egress is None:
            raise NetworkFault("no [egress] in the machines file: the route internet has no way out")
        network.limits = await self._egress.limits()
        await self._egress.connect(network.machine_id, network.namespace)
        await network.namespace.run(SYSCTL, "-q", "-w", "net.ipv4.ip_forward=1")

    async def _checked(self, network: Network) -> Seen:
        """Raises Breached with every difference."""
        if not network.cable.is_running or (network.services is not None and not network.services.is_running):
            raise NoSuchNetwork  # what ended is gone, not broken through
        inside = network.namespace
        listed, interfaces, routes, forwards, steered = await asyncio.gather(
            inside.listed(),
            inside.interfaces(),
            inside.routes(),
            inside.setting("net.ipv4.ip_forward"),
            steering(inside),
        )
        rules = lasting(listed)
        wanted_interfaces, wanted_routes = self._wanted(network)
        faults = differences("rules", await expected_rules(network.rules()), rules)
        faults += differences("steering", await expected_steering(), steered)
        for what, wanted, found in (
            ("interfaces", wanted_interfaces, interfaces),
            ("routes", wanted_routes, routes),
            ("forwarding", "1" if network.route == "internet" else "0", forwards),
        ):
            if wanted != found:
                faults.append(f"{what}: {json.dumps(found)} instead of {json.dumps(wanted)}")
        if network.route == "internet" and self._egress is not None:
            faults += await self._egress.faults()
        if faults:
            raise Breached("; ".join(faults))
        return Seen(_digest(rules, interfaces, routes), *_counted(listed))

    def _wanted(self, network: Network) -> tuple[dict[str, list[str]], list[str]]:
        interfaces: dict[str, list[str]] = {"lo": [], CARD: []}
        routes: list[str] = []
        if network.route != "none":
            interfaces[CARD] = [str(GATEWAY)]
            routes.append(f"{GATEWAY.network} - {CARD}")
        if network.route == "internet" and self._egress is not None:
            ends = self._egress.ends_of(network.machine_id)
            interfaces[UPLINK] = [str(ends[0])] if ends else ["an egress namespace that was not changed"]
            routes += [f"default {ends[1].ip} {UPLINK}", f"{ends[0].network} - {UPLINK}"] if ends else []
        return interfaces, sorted(routes)

    async def _cable(self, namespace: Namespace, where: Path) -> Child:
        listening = _listening(where, self._guests)
        try:
            numbers = (str(self._guests.uid), str(self._account.uid), str(self._account.gid), str(listening.fileno()))
            child = await Child.start(
                namespace, [str(self._python), *_PYTHON_MODULE, *numbers], descriptors=(listening.fileno(),)
            )
        finally:
            listening.close()
        try:
            await child.says(lambda line: line.strip() == b"ready", timeout_s=_CABLE_TIMEOUT_S)
        except NetworkFault:
            await child.end()
            raise
        return child

    async def _drop(self, machine_id: str) -> None:
        network = self._networks.pop(machine_id, None)
        if network is None:
            return
        for ear in network.ears:
            ear.cancel()
        await network.cable.end()
        if network.services is not None:
            await network.services.end()
        if network.recording is not None:
            await network.recording.discard()
        if self._egress is not None:
            with suppress(NetworkFault):
                await self._egress.disconnect(machine_id)
        network.namespace.close()
        network.socket.unlink(missing_ok=True)

    def _turn(self, machine_id: str) -> asyncio.Lock:
        """Who changes or compares a machine's network holds it; the fence is asked by whoever has it."""
        return self._turns.setdefault(machine_id, asyncio.Lock())

    def _of(self, machine_id: str) -> Network:
        network = self._networks.get(machine_id)
        if network is None:
            raise NoSuchNetwork
        return network

    def _advance(self, machine_id: str, epoch: int, claim: Claim | None) -> None:
        """The fence stands there. Raises StaleEpoch, StaleClaim, and Refused where nobody can have come so far.

        Whoever asks may be a guest that broke out: it must not lead a machine to where no later owner can be. A claim
        that nobody can have come to costs its machine one epoch.
        """
        fence, most = self._fence(machine_id), self._settings.epoch_jump_max
        if epoch > fence.highest() + most:
            raise Refused(
                f"epoch {epoch} of {machine_id} is more than {most} beyond {fence.highest()}, the last one acted for: "
                f"if it is right, root writes it into {fence.path}"
            )
        fence.advance(epoch, claim)

    def _fence(self, machine_id: str) -> HostFence:
        return HostFence(self._settings.directory / "fences" / machine_id)


def _listening(where: Path, owner: Account) -> socket.socket:
    """The socket of one guest, which only `owner` may connect to."""
    where.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(where))
        where.chmod(0o600)
        os.chown(where, owner.uid, owner.gid)
        listening.listen(_SOCKET_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _digest(*seen: object) -> str:
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def _counted(listed: list[dict[str, dict[str, object]]]) -> tuple[int, int]:
    found = {entry["counter"]["name"]: entry["counter"]["packets"] for entry in listed if "counter" in entry}
    return int(str(found[PASSED])), int(str(found[DROPPED]))
