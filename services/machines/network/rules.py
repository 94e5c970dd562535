"""What may pass on each route, as data: chains of nftables that drop whatever no rule accepts. Pure.

A machine's namespace has two fences. `guard` stands at the cable itself, before anything else looks at a frame: one
sender, one address, whole IPv4 datagrams and questions about the gateway; no VLAN, no IPv6, no broadcast. `route` says
where what is left may go. No rule is there twice: the packet tests take each away in turn and see it missed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from contracts.submission import Route
from services.machines.network.layout import (
    CARD,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    LINK_PREFIX,
    OUTSIDE,
    UPLINK,
)

PASSED, DROPPED = "passed", "dropped"
_WHOLE = "ip frag-off & 0x3fff == 0"  # neither more fragments nor an offset (RFC 791)
TCP_SERVICES = (21, 25, 53, 80, 110, 443, 465, 990, 995)
UDP_SERVICES = (53, 69, 123)
TCP_CATCH_ALL, UDP_CATCH_ALL = 1, 7
"""Where INetSim answers what no other of its services is for: with a banner, and with an echo."""

# RFC 6890 and RFC 5771, without the documentation ranges: nobody has those.
PRIVATE: tuple[IPv4Network, ...] = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "224.0.0.0/3",
        ),
    )
)


@dataclass(frozen=True)
class Chain:
    """One chain: `hook` is what nftables calls its type, hook and priority."""

    table: str
    name: str
    hook: str
    rules: tuple[str, ...] = ()
    policy: str = "drop"


@dataclass(frozen=True)
class Ruleset:
    """Everything that one namespace has. `counters` names the objects that rules count with."""

    chains: tuple[Chain, ...]
    counters: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        """What nft reads; it replaces whatever was there, in one transaction."""
        return "\n".join(["flush ruleset", *(self._table(table) for table in self._tables())]) + "\n"

    def places(self) -> list[tuple[int, int]]:
        """The place of each rule: its chain's and its own."""
        return [(c, r) for c, chain in enumerate(self.chains) for r in range(len(chain.rules))]

    def without(self, place: tuple[int, int]) -> "Ruleset":
        """The same but for one rule; what the packet tests put in place to see it missed."""
        chain, rule = place
        kept = replace(
            self.chains[chain], rules=tuple(text for i, text in enumerate(self.chains[chain].rules) if i != rule)
        )
        return replace(self, chains=(*self.chains[:chain], kept, *self.chains[chain + 1 :]))

    def _tables(self) -> Iterable[str]:
        return dict.fromkeys(chain.table for chain in self.chains)

    def _table(self, table: str) -> str:
        counters = [f"  counter {name} {{ }}" for owner, name in self.counters if owner == table]
        chains = [_chain(chain) for chain in self.chains if chain.table == table]
        return "\n".join([f"table {table} {{", *counters, *chains, "}"])


@dataclass(frozen=True)
class Limits:
    """What a guest on the route internet may use up, and whom it asks for names."""

    resolver: IPv4Address
    rate_kib_s: int
    blocked: tuple[IPv4Network, ...] = ()
    """Also out of reach: the host's own addresses."""


def of_machine(route: Route, mac: str, limits: Limits | None = None) -> Ruleset:
    """The rules of a machine's namespace on that route. `limits` is for internet, which needs it."""
    if route == "none":
        return Ruleset((_guard_in(()), _guard_out(())), _COUNTERS)
    guard = (_guard_in(_admitted(mac)), _guard_out(_RETURNED))
    if route == "simulated":
        return Ruleset((*guard, *_simulated()), _COUNTERS)
    if limits is None:
        raise ValueError("the route internet needs limits")
    return Ruleset((*guard, *_internet(limits)), _COUNTERS)


def of_egress() -> Ruleset:
    """The rules of the egress namespace: from machines outside and back, never from one machine to another."""
    links = f'"{LINK_PREFIX}*"'
    return Ruleset(
        (
            *_closed("input", "output"),
            Chain(
                "inet route",
                "forward",
                "type filter hook forward priority filter",
                (
                    f'iifname {links} oifname "{OUTSIDE}" accept',
                    f'iifname "{OUTSIDE}" oifname {links} ct state established,related accept',
                ),
            ),
            _masquerade(OUTSIDE),
        )
    )


_COUNTERS = (("netdev guard", PASSED), ("netdev guard", DROPPED))
_RETURNED = (
    "ether type arp arp operation reply accept",
    f"ether type ip ip daddr {GUEST.ip} accept",
)


def _admitted(mac: str) -> tuple[str, ...]:
    return (
        (
            f"ether saddr {mac} ether type arp arp operation request arp saddr ether {mac} "
            f"arp saddr ip {GUEST.ip} arp daddr ip {GATEWAY.ip} counter name {PASSED} accept"
        ),
        (
            f"ether saddr {mac} ether daddr {GATEWAY_MAC} ether type ip ip saddr {GUEST.ip} {_WHOLE} "
            f"counter name {PASSED} accept"
        ),
    )


def _guard_in(rules: Sequence[str]) -> Chain:
    hook = f'type filter hook ingress device "{CARD}" priority -500'
    return Chain("netdev guard", "arriving", hook, (*rules, f"counter name {DROPPED} drop"))


def _guard_out(rules: Sequence[str]) -> Chain:
    return Chain("netdev guard", "leaving", f'type filter hook egress device "{CARD}" priority 0', tuple(rules))


def _simulated() -> tuple[Chain, ...]:
    tcp, udp = (", ".join(map(str, ports)) for ports in (TCP_SERVICES, UDP_SERVICES))
    return (
        Chain(
            "inet route",
            "caught",
            "type nat hook prerouting priority dstnat",
            (
                f"tcp dport {{ {tcp} }} redirect",
                f"meta l4proto tcp redirect to :{TCP_CATCH_ALL}",
                f"udp dport {{ {udp} }} redirect",
                f"meta l4proto udp redirect to :{UDP_CATCH_ALL}",
            ),
            "accept",
        ),
        Chain(
            "inet route",
            "input",
            "type filter hook input priority filter",
            (
                f'iifname "{CARD}" meta l4proto {{ tcp, udp }} accept',
                f'iifname "{CARD}" icmp type echo-request accept',
            ),
        ),
        Chain(
            "inet route",
            "output",
            "type filter hook output priority filter",
            (f'oifname "{CARD}" ct state established,related accept',),
        ),
        *_closed("forward"),
    )


def _internet(limits: Limits) -> tuple[Chain, ...]:
    there, back = f'iifname "{CARD}" oifname "{UPLINK}"', f'iifname "{UPLINK}" oifname "{CARD}"'
    blocked = ", ".join(map(str, merged((*PRIVATE, *limits.blocked))))
    resolver = str(limits.resolver)
    return (
        Chain(
            "inet route",
            "asked",
            "type nat hook prerouting priority dstnat",
            (
                f'iifname "{CARD}" udp dport 53 dnat ip to {resolver}',
                f'iifname "{CARD}" tcp dport 53 dnat ip to {resolver}',
            ),
            "accept",
        ),
        *_closed("input", "output"),
        Chain(
            "inet route",
            "forward",
            "type filter hook forward priority filter",
            (
                f"{there} limit rate over {limits.rate_kib_s} kbytes/second burst {limits.rate_kib_s} kbytes drop",
                f"{there} ip daddr {resolver} meta l4proto {{ tcp, udp }} th dport 53 accept",
                f"{there} ip daddr {{ {blocked} }} drop",
                f"{there} meta l4proto {{ tcp, udp }} accept",
                f"{there} icmp type echo-request accept",
                f"{back} ct state established,related accept",
            ),
        ),
        _masquerade(UPLINK),
    )


def merged(networks: Sequence[IPv4Network]) -> list[IPv4Network]:
    """The same addresses without overlap, in order: a set of intervals takes nothing else."""
    kept: list[IPv4Network] = []
    for network in sorted(networks):
        if not kept or not network.subnet_of(kept[-1]):
            kept.append(network)
    return kept


def _closed(*hooks: str) -> tuple[Chain, ...]:
    return tuple(Chain("inet route", hook, f"type filter hook {hook} priority filter") for hook in hooks)


def _masquerade(interface: str) -> Chain:
    rule = f'oifname "{interface}" masquerade'
    return Chain("inet route", "hidden", "type nat hook postrouting priority srcnat", (rule,), "accept")


def _chain(chain: Chain) -> str:
    lines = "".join(f"    {rule}\n" for rule in chain.rules)
    return f"  chain {chain.name} {{\n    {chain.hook}; policy {chain.policy};\n{lines}  }}"
