"""Frames as bytes, as a hostile guest would write them. Each carries a mark by which a victim's sniffer knows it."""

import struct
from ipaddress import IPv4Address, IPv6Address

BROADCAST = "ff:ff:ff:ff:ff:ff"
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
SYN, ACK, PUSH = 0x02, 0x10, 0x08
_ETHERTYPE = {"ip": 0x0800, "arp": 0x0806, "ip6": 0x86DD, "vlan": 0x8100, "qinq": 0x88A8, "rarp": 0x8035}


def mac(text: str) -> bytes:
    """The six octets."""
    return bytes.fromhex(text.replace(":", ""))


def ethernet(kind: str, payload: bytes, *, source: str, target: str = BROADCAST) -> bytes:
    """One frame, as long as frames are at least."""
    return (mac(target) + mac(source) + struct.pack(">H", _ETHERTYPE[kind]) + payload).ljust(60, b"\0")


def vlan(frame: bytes, tag: int, *, kind: str = "vlan") -> bytes:
    """The frame with a tag in it (IEEE 802.1Q)."""
    return frame[:12] + struct.pack(">HH", _ETHERTYPE[kind], tag) + frame[12:]


def arp(*, operation: int, sender_mac: str, sender: str, wanted: str, mark: bytes = b"") -> bytes:
    """A question (1) or an answer (2) about an address (RFC 826); the mark is in the padding."""
    addresses = mac(sender_mac) + IPv4Address(sender).packed + bytes(6) + IPv4Address(wanted).packed
    return struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + addresses + mark


def ipv4(
    source: str,
    target: str,
    protocol: int,
    payload: bytes,
    *,
    fragment: int = 0,
    more: bool = False,
    options: bytes = b"",
) -> bytes:
    """A datagram (RFC 791); `fragment` is the offset in eight octets."""
    words = 5 + len(options) // 4
    flags = (0x2000 if more else 0) | fragment
    total = words * 4 + len(payload)
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, total, 0x1234, flags, 64, protocol, 0)
    head += IPv4Address(source).packed + IPv4Address(target).packed + options
    return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + payload


def udp(source: str, target: str, port: int, payload: bytes, *, source_port: int = 40000) -> bytes:
    """A datagram (RFC 768) with its checksum."""
    head = struct.pack(">HHHH", source_port, port, 8 + len(payload), 0)
    check = _checksum(_pseudo(source, target, UDP, len(head) + len(payload)) + head + payload) or 0xFFFF
    return head[:6] + struct.pack(">H", check) + payload


def tcp(
    source: str,
    target: str,
    port: int,
    *,
    flags: int = SYN,
    payload: bytes = b"",
    source_port: int = 40000,
    sequence: int = 1000,
    acknowledged: int = 0,
) -> bytes:
    """A segment (RFC 9293) with its checksum."""
    head = struct.pack(">HHIIBBHHH", source_port, port, sequence, acknowledged, 5 << 4, flags, 1024, 0, 0)
    check = _checksum(_pseudo(source, target, TCP, len(head) + len(payload)) + head + payload)
    return head[:16] + struct.pack(">H", check) + head[18:] + payload


def echo(payload: bytes, *, kind: int = 8) -> bytes:
    """A question for an echo (RFC 792)."""
    head = struct.pack(">BBHHH", kind, 0, 0, 7, 1)
    return head[:2] + struct.pack(">H", _checksum(head + payload)) + head[4:] + payload


def ipv6(source: str, target: str, following: int, payload: bytes) -> bytes:
    """A packet (RFC 8200)."""
    head = struct.pack(">IHBB", 6 << 28, len(payload), following, 255)
    return head + IPv6Address(source).packed + IPv6Address(target).packed + payload


def router_advertisement(mark: bytes) -> bytes:
    """Offers a prefix and a default route to whoever believes it (RFC 4861)."""
    prefix = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + IPv6Address("2001:db8:bad::").packed
    return struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix + mark


def name_question(name: str, mark: bytes = b"") -> bytes:
    """A question for the address of a name (RFC 1035); the mark follows it."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 0x4D42, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1) + mark


def lease_offer(mark: bytes) -> bytes:
    """What a DHCP server says to everybody (RFC 2131), enough of it to be seen."""
    return struct.pack(">BBBB", 2, 1, 6, 0) + bytes(232) + b"\x63\x82\x53\x63" + mark


def _pseudo(source: str, target: str, protocol: int, length: int) -> bytes:
    return IPv4Address(source).packed + IPv4Address(target).packed + struct.pack(">BBH", 0, protocol, length)


def _checksum(octets: bytes) -> int:
    padded = octets + b"\0" * (len(octets) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
