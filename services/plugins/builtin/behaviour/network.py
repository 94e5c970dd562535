"""Socket addresses and DNS questions, out of the arguments of a traced call. Standard library only."""

import re
from dataclasses import dataclass

from .strace import string_of

NAME_MAX_CHARS = 253
_DNS_HEADER_BYTES = 12
_LABEL_MAX_BYTES = 63
_DNS_PORT = 53

_PORT = re.compile(r"sin6?_port=htons\((\d{1,5})\)")
_IPV4 = re.compile(r'sin_addr=inet_addr\("([0-9.]{7,15})"\)')
_IPV6 = re.compile(r'inet_pton\(AF_INET6, "([0-9a-fA-F:.]{2,45})"')
_PEER = re.compile(r"^(TCP|UDP|TCPv6|UDPv6):\[.{1,60}->\[?([0-9a-fA-F:.]{2,45}?)\]?:(\d{1,5})\]$")
_IOV = re.compile(r'iov_base=("(?:[^"\\]|\\.)*")', re.DOTALL)
_PROTOCOL = re.compile(r"^(TCP|UDP|RAW|ICMP|UDPLITE|SCTP|PING)(?:v6)?:\[")


@dataclass(frozen=True)
class Address:
    """Whom a call wanted to reach."""

    family: str
    address: str
    port: int


def socket_address(argument: str) -> Address | None:
    """The IPv4 or IPv6 address in a `{sa_family=...}` argument."""
    port = _PORT.search(argument)
    if port is None or int(port[1]) > 0xFFFF:  # noqa: PLR2004 - ports have 16 bits
        return None
    if ipv4 := _IPV4.search(argument):
        return Address("ipv4", ipv4[1], int(port[1]))
    if ipv6 := _IPV6.search(argument):
        return Address("ipv6", ipv6[1], int(port[1]))
    return None


def connected_peer(descriptor: str) -> Address | None:
    """The peer of a connected socket, as strace's description of a descriptor has it."""
    match = _PEER.match(descriptor)
    if match is None or int(match[3]) > 0xFFFF:  # noqa: PLR2004 - as above
        return None
    return Address("ipv6" if match[1].endswith("v6") else "ipv4", match[2], int(match[3]))


def payload_of(argument: str) -> bytes:
    """The first bytes that a call sends: its buffer, or the first buffer of its message."""
    message = _IOV.search(argument)
    return string_of(message[1] if message else argument) or b""


def protocol_of(descriptor: str) -> str | None:
    """`tcp`, `udp`, ..., as far as the description of a descriptor says."""
    match = _PROTOCOL.match(descriptor)
    return match[1].lower() if match else None


def is_dns(address: Address) -> bool:
    """Whether questions go there."""
    return address.port == _DNS_PORT


def dns_question(payload: bytes, *, is_tcp: bool) -> str | None:
    """The first name that a DNS message (RFC 1035, 4.1) asks for, escaped; None when it is not a question."""
    message = payload[2:] if is_tcp else payload
    if len(message) < _DNS_HEADER_BYTES or message[2] & 0x80 or message[4:6] == b"\0\0":
        return None
    labels: list[bytes] = []
    at = _DNS_HEADER_BYTES
    while at < len(message) and message[at]:
        length = message[at]
        if length > _LABEL_MAX_BYTES or at + 1 + length > len(message):
            return None
        labels.append(message[at + 1 : at + 1 + length])
        at += 1 + length
    if at >= len(message) or not labels:
        return None
    name = ".".join(_label(label) for label in labels)
    return name if len(name) <= NAME_MAX_CHARS else None


def question_to(address: Address, payload: bytes, protocol: str | None) -> str | None:
    """The name that is asked for. Where no questions are expected, only what can be nothing else is taken for one."""
    question = dns_question(payload, is_tcp=protocol == "tcp")
    if question is None or is_dns(address):
        return question
    is_plain = protocol == "udp" and payload[4:6] == b"\0\1" and "." in question and "\\" not in question
    return question if is_plain else None


def _label(label: bytes) -> str:
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 0x80) or byte in b"-_" else f"\\{byte:03d}"  # noqa: PLR2004 - ASCII
        for byte in label
    )
