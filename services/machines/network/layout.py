"""Names and addresses of a machine's analysis network. Each is derived here, from a machine's name or from nothing.

Every machine has a network namespace of its own, so every guest may have the same address: what another guest is
called or where it lives is nothing that a packet could be sent to.
"""

import hashlib
from ipaddress import IPv4Interface, IPv4Network

CARD = "guest0"
"""The namespace's end of the guest's cable."""
UPLINK = "up0"
"""The namespace's end of its link to the egress namespace; only on the route internet."""
OUTSIDE = "wan0"
"""The egress namespace's only way out."""
LINK_PREFIX = "lnk"
"""What the other ends of those links are called, each followed by its slot."""

GATEWAY = IPv4Interface("192.168.1.1/24")
GUEST = IPv4Interface("192.168.1.100/24")
GATEWAY_MAC = "02:4d:47:00:00:01"
SIMULATED_ADDRESS = "203.0.113.80"
"""What every name resolves to on the route simulated; TEST-NET-3 (RFC 5737), which nobody has."""

SLOTS_MAX = 4096
_LINKS = IPv4Network("100.127.0.0/16")


def guest_mac(machine_id: str) -> str:
    """The analysis card's address. The guest tells the card by it from the control card."""
    tail = hashlib.sha256(machine_id.encode()).digest()[:3]
    return "02:4d:41:" + ":".join(f"{octet:02x}" for octet in tail)


def socket_name(machine_id: str) -> str:
    """The file name of the socket that the machine's analysis card is plugged into; short, for the kernel's limit."""
    return hashlib.sha256(machine_id.encode()).hexdigest()[:12] + ".sock"


def link_name(slot: int) -> str:
    """The egress namespace's end of a machine's link."""
    return f"{LINK_PREFIX}{slot}"


def link_addresses(slot: int) -> tuple[IPv4Interface, IPv4Interface]:
    """The two ends of a machine's link: in the machine's namespace, and in the egress namespace."""
    first = int(_LINKS.network_address) + 4 * slot
    return IPv4Interface((first + 2, 30)), IPv4Interface((first + 1, 30))
