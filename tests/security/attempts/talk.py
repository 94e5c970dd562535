"""Talk: the proof is what the host hears."""

import os
import socket

from .known import Targets, attempt, call, nothing


@attempt()
def _every_family_of_sockets(_: Targets) -> object:
    found = set()
    for family in range(48):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                socket.socket(family, kind).close()
                found.add(family)
            except OSError:
                continue
    return sorted(found - {socket.AF_UNIX}) or nothing()


@attempt()
def _tcp(targets: Targets) -> object:
    return _said(socket.create_connection(("127.0.0.1", targets["tcp"]), 3))


@attempt()
def _tcp6(targets: Targets) -> object:
    return _said(socket.create_connection(("::1", targets["tcp6"]), 3))


@attempt()
def _udp(targets: Targets) -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"was here", ("127.0.0.1", targets["udp"]))


@attempt()
def _unix(targets: Targets) -> object:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(targets["unix"])
    return _said(connection)


@attempt()
def _abstract_unix(targets: Targets) -> object:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("\0" + targets["abstract"])
    return _said(connection)


@attempt()
def _shared_memory(targets: Targets) -> object:
    return call(29, targets["ipc_key"], 4096, 0o1666) + 1


@attempt()
def _a_message_queue(targets: Targets) -> object:
    return call(68, targets["ipc_key"], 0o1666) + 1


@attempt()
def _semaphores(targets: Targets) -> object:
    return call(64, targets["ipc_key"], 1, 0o1666) + 1


@attempt()
def _a_posix_queue(targets: Targets) -> object:
    return call(240, targets["queue"].encode(), os.O_CREAT | os.O_RDWR, 0o666, 0) + 1


def _said(connection: socket.socket) -> int:
    with connection:
        return connection.send(b"was here")
