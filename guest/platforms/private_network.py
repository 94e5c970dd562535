"""A network namespace with nothing but a loopback of its own: what a sample on Linux gets to see of the network."""

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

from guest import limits
from guest.platforms import PlatformRefused

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SIOCSIFFLAGS = 0x8914  # linux/sockios.h
_IFF_UP_RUNNING = 0x41  # linux/if.h

Outcome = TypeVar("Outcome")


def in_private_network(work: Callable[[], Outcome]) -> Outcome:
    """What `work` returns, run in a thread inside a new namespace; the processes that it starts stay there.

    The sample cannot go back: entering another namespace takes privileges over it that its user has not. So it reaches
    neither the control card nor the agent. Raises PlatformRefused.
    """
    outcome: list[Outcome] = []
    failure: list[OSError] = []

    def inside() -> None:
        try:
            _enter()
            outcome.append(work())
        except OSError as error:
            failure.append(error)

    # A namespace is a thread's: the agent's other threads stay where the host can reach them.
    thread = threading.Thread(target=inside, daemon=True)
    thread.start()
    thread.join(timeout=limits.LAUNCH_TIMEOUT_S)
    if not outcome:
        raise PlatformRefused(f"no private network: {failure[0] if failure else 'not in time'}")
    return outcome[0]


def _enter() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))
