"""What decides about a packet beside rules, addresses and the main routes: policy rules, other tables, traffic control.

A policy rule leads packets to a table that nobody looks at; a classifier at a card's ingress sees a packet before any
fence does. There is none of either in a network of ours. Asked of the kernel itself: it is part of every look.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from functools import lru_cache

from services.machines.network.namespace import Namespace, in_namespace

_RTM_GETROUTE, _RTM_GETRULE, _RTM_GETQDISC = 26, 34, 38  # linux/rtnetlink.h
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_FAMILIES: dict[int, str] = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
_PRIORITY, _KIND = 6, 1  # FRA_PRIORITY, TCA_KIND
_MAIN_TABLE, _OF_THE_KERNEL = 254, 2  # RT_TABLE_MAIN, RTPROT_KERNEL
_ROUTE_BYTES = _RULE_BYTES = 12
_QUEUE_BYTES = 20
_AT_INGRESS = frozenset({"clsact", "ingress"})
_ANSWER_BYTES = 1 << 16
_ANSWERS_MAX = 1000
_PATIENCE_S = 5.0


async def steering(namespace: Namespace) -> list[str]:
    """Everything of that kind in the namespace. Raises NetworkFault."""
    return await asyncio.to_thread(in_namespace, namespace.descriptor, _listed)


async def expected_steering() -> list[str]:
    """What every namespace has from the kernel. Raises NetworkFault."""
    kept = _kept()
    if not kept:
        scratch = Namespace()
        try:
            kept.extend(await steering(scratch))
        finally:
            scratch.close()
    return kept


@lru_cache(maxsize=1)
def _kept() -> list[str]:
    return []


def _listed() -> list[str]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.bind((0, 0))
        kernel.settimeout(_PATIENCE_S)
        rules = [_rule(entry) for entry in _dump(kernel, _RTM_GETRULE, _RULE_BYTES)]
        routes = [_route(entry) for entry in _dump(kernel, _RTM_GETROUTE, _ROUTE_BYTES)]
        queues = [_queue(entry) for entry in _dump(kernel, _RTM_GETQDISC, _QUEUE_BYTES)]
    return sorted(filter(None, (*rules, *routes, *queues)))


def _rule(entry: bytes) -> str:
    priority = int.from_bytes(_attributes(entry, _RULE_BYTES).get(_PRIORITY, b""), "little")
    family, table = entry[0], entry[4]
    return f"{_FAMILIES.get(family, str(family))} rule {priority} to table {table} ({entry.hex()})"


def _route(entry: bytes) -> str:
    """Only what is not of the kernel's own making, but for IPv4's main table: that is compared by itself."""
    family, table, protocol = entry[0], entry[4], entry[5]
    is_main = (family, table) == (socket.AF_INET, _MAIN_TABLE)
    if family not in _FAMILIES or is_main or protocol == _OF_THE_KERNEL:
        return ""
    return f"{_FAMILIES[family]} route in table {table} ({entry.hex()})"


def _queue(entry: bytes) -> str:
    """Only where classifiers stand in front of the fences; other queues delay packets and lead none anywhere."""
    kind = _attributes(entry, _QUEUE_BYTES).get(_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
    return f"classifiers of interface {int.from_bytes(entry[4:8], 'little')} ({kind})" if kind in _AT_INGRESS else ""


def _dump(kernel: socket.socket, kind: int, header_bytes: int) -> Iterator[bytes]:
    """Each entry without its header. Raises OSError."""
    kernel.send(_HEADER.pack(_HEADER.size + header_bytes, kind, _DUMP, 1, 0) + bytes(header_bytes))
    for _ in range(_ANSWERS_MAX):
        for answer, entry in _messages(kernel.recv(_ANSWER_BYTES)):
            if answer == _DONE:
                return
            if answer == _ERROR:
                raise OSError(-int.from_bytes(entry[:4], "little", signed=True), "the kernel lists nothing")
            yield entry
    raise OSError("the kernel lists more than a network of ours can have")


def _messages(packet: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(packet):
        length, kind, *_ = _HEADER.unpack_from(packet, at)
        yield kind, packet[at + _HEADER.size : at + length]
        at += max(_padded(length), _HEADER.size)


def _attributes(entry: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + _ATTRIBUTE.size <= len(entry):
        length, kind = _ATTRIBUTE.unpack_from(entry, at)
        found[kind] = entry[at + _ATTRIBUTE.size : at + length]
        at += max(_padded(length), _ATTRIBUTE.size)
    return found


def _padded(length: int) -> int:
    return (length + 3) & ~3
