"""Hears from the kernel that something changed in a network namespace. Standard library only: the cable imports it."""

import socket

_NETFILTER = 12  # linux/netlink.h
_NFTABLES_GROUP = 1 << 6  # NFNLGRP_NFTABLES
_ROUTE_GROUPS = sum(
    1 << (group - 1)
    for group in (
        *(1, 4),  # RTNLGRP_LINK, RTNLGRP_TC (linux/rtnetlink.h)
        *(5, 7, 8, 24),  # RTNLGRP_IPV4_IFADDR, _ROUTE, _RULE, _NETCONF
        *(9, 11, 19, 25),  # RTNLGRP_IPV6_IFADDR, _ROUTE, _RULE, _NETCONF
    )
)
_MESSAGE_BYTES = 65536


def watches() -> list[socket.socket]:
    """Hear of every change in the namespace that the caller is in, whatever decides where a packet goes.

    Those are links and their queues, addresses, routes, policy rules, forwarding, and the rules of nftables.
    """
    return [_watch(socket.NETLINK_ROUTE, _ROUTE_GROUPS), _watch(_NETFILTER, _NFTABLES_GROUP)]


def drain(watch: socket.socket) -> None:
    """Nothing waits to be read. What changed is for the helper to look at; here it only matters that something did."""
    try:
        while watch.recv(_MESSAGE_BYTES):
            continue
    except OSError:
        return  # nothing is left; or more came than the kernel keeps, and something did change


def _watch(protocol: int, groups: int) -> socket.socket:
    watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    watch.bind((0, groups))
    watch.settimeout(0)
    return watch
