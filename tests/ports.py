"""Loopback ports for what tests start themselves, below the range from which the kernel serves outgoing connections.

A service opens a dozen connections before it listens: a port of the kernel's own choice may be one of theirs by then.
"""

import itertools
import random

from deploy.local import ports

_next = itertools.count(random.randrange(ports.LAST - ports.FIRST))  # noqa: S311 - where to begin to look is no secret


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, and that this process has not named before."""
    for step in itertools.islice(_next, ports.LAST - ports.FIRST):
        port = ports.FIRST + step % (ports.LAST - ports.FIRST)
        if ports.is_free(port):
            return port
    raise AssertionError(f"no port between {ports.FIRST} and {ports.LAST} is free")
