"""A network namespace of the sample's own: what a sample on Linux gets to see of the network.

There is a loopback in it, and on a route other than none the analysis card, which is nowhere else then. The host
decides where that card leads; its addresses are the same in every guest.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

from guest import limits
from guest.platforms import PlatformRefused

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SIOCSIFFLAGS = 0x8914  # linux/sockios.h
_SIOCGIFHWADDR = 0x8927  # linux/sockios.h
_IFF_UP_RUNNING = 0x41  # linux/if.h

_IP = "/usr/sbin/ip"
_ANALYSIS_MAC = "02:4d:41:"
_ADDRESS, _GATEWAY = "192.168.1.100/24", "192.168.1.1"

Outcome = TypeVar("Outcome")


def in_private_network(work: Callable[[], Outcome], *, has_card: bool = False) -> Outcome:
    """What `work` returns, run in a thread inside a new namespace; the processes that it starts stay there.

    The sample cannot go back: entering another namespace takes privileges over it that its user has not. So it reaches
    neither the control card nor the agent. Raises PlatformRefused.
    """
    outcome: list[Outcome] = []
    failure: list[Exception] = []

    def inside() -> None:
        try:
            home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter()
                if has_card:
                    _bring_card(home)
            finally:
                os.close(home)
            outcome.append(work())
        except (OSError, subprocess.SubprocessError) as error:
            failure.append(error)

    # A namespace is a thread's: the agent's other threads stay where the host can reach them.
    thread = threading.Thread(target=inside, daemon=True)
    thread.start()
    thread.join(timeout=limits.LAUNCH_TIMEOUT_S)
    if not outcome:
        raise PlatformRefused(f"no private network: {failure[0] if failure else 'not in time'}")
    return outcome[0]


def _enter() -> None:
    _must(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))


def _bring_card(home: int) -> None:
    """The analysis card is in this thread's namespace, and the way to everything."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    _must(libc.setns(home, _CLONE_NEWNET))
    try:
        card = _analysis_card()
        _ip("link", "set", card, "netns", f"/proc/self/fd/{here}", descriptor=here)
    finally:
        _must(libc.setns(here, _CLONE_NEWNET))
        os.close(here)
    _ip("address", "add", _ADDRESS, "dev", card)
    _ip("link", "set", card, "up")
    _ip("route", "add", "default", "via", _GATEWAY)


def _analysis_card() -> str:
    """The name of the card, asked of the kernel: /sys shows the namespace that it was mounted in."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            answer = fcntl.ioctl(control, _SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
        if answer[18:24].hex(":").startswith(_ANALYSIS_MAC):
            return name
    raise OSError(errno.ENODEV, "this machine has no analysis card")


def _ip(*words: str, descriptor: int | None = None) -> None:
    passed = () if descriptor is None else (descriptor,)
    subprocess.run([_IP, *words], check=True, capture_output=True, timeout=limits.TOOL_TIMEOUT_S, pass_fds=passed)


def _must(outcome: int) -> None:
    if outcome != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
