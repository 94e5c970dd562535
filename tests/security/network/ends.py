"""The ends of the wires: a guest that writes frames into its cable, sniffers, and the user who asks the kernel."""

import os
import pwd
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from deploy.local.state import MACHINE_USER
from services.machines.network.layout import GATEWAY_MAC, GUEST, guest_mac
from services.machines.network.namespace import Namespace, in_namespace
from tests.security.network import frames

ETH_P_ALL = 3
PATIENCE_S = 10.0


class Sniffer:
    """Everything that an interface sees, kept until it is asked for."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        self._socket = _opened_in(namespace, interface)

    def packets(self) -> list[bytes]:
        """The frames since it was asked last."""
        caught: list[bytes] = []
        with suppress(BlockingIOError):
            while True:
                caught.append(self._socket.recv(65536))
        return caught

    def seen(self) -> bytes:
        """The same, one after the other."""
        return b"".join(self.packets())

    def close(self) -> None:
        """It listens no more."""
        self._socket.close()


@dataclass
class Guest:
    """What a guest is to its network: a process that writes frames into the cable and reads what comes out."""

    machine_id: str
    cable: socket.socket
    arrived: bytearray = field(default_factory=bytearray)
    port: int = 40000
    sent: int = 0
    patience_s: float = PATIENCE_S

    @classmethod
    def connect(cls, machine_id: str, path: Path) -> "Guest":
        """The cable is plugged in, by the user that QEMU runs as."""
        with as_user(MACHINE_USER):
            cable = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            cable.settimeout(PATIENCE_S)
            cable.connect(str(path))
        return cls(machine_id, cable)

    @property
    def mac(self) -> str:
        """Its card's address."""
        return guest_mac(self.machine_id)

    def send(self, *them: bytes) -> None:
        """The frames are on the cable."""
        self.sent += len(them)
        for frame in them:
            self.cable.sendall(struct.pack(">I", len(frame)) + frame)

    def next_port(self) -> int:
        """A port that no earlier conversation was from: the kernel remembers those."""
        self.port += 1
        return self.port

    def datagram(self, target: str, port: int, payload: bytes, *, source: str = str(GUEST.ip)) -> bytes:
        """A well-formed frame with a datagram to that port."""
        made = frames.udp(source, target, port, payload, source_port=self.next_port())
        return self.packet(target, frames.UDP, made, source=source)

    def knock(self, target: str, port: int) -> tuple[int, bytes]:
        """The port that a connection was asked for from, and the answer, yes or no. Raises TimeoutError."""
        own = self.next_port()
        self.send(self.packet(target, frames.TCP, frames.tcp(str(GUEST.ip), target, port, source_port=own)))
        return own, self.receive_with(struct.pack(">HH", port, own))

    def fetch(self, target: str, port: int, said: bytes = b"") -> bytes:
        """The first bytes that a server of TCP sends after the handshake. Raises TimeoutError."""
        own, answer = self.knock(target, port)
        segment = partial(frames.tcp, str(GUEST.ip), target, port, source_port=own)
        (theirs,) = struct.unpack(">I", answer[38:42])
        flags = frames.ACK | (frames.PUSH if said else 0)
        self.send(
            self.packet(target, frames.TCP, segment(flags=flags, sequence=1001, acknowledged=theirs + 1, payload=said))
        )
        while len(answer := self.receive_with(struct.pack(">HH", port, own))) <= 60 or not answer[54:].strip(b"\0"):
            continue
        return answer[54:]

    def packet(self, target: str, protocol: int, payload: bytes, *, source: str = str(GUEST.ip)) -> bytes:
        """A well-formed frame with an IPv4 packet, sent to the gateway."""
        return frames.ethernet(
            "ip", frames.ipv4(source, target, protocol, payload), source=self.mac, target=GATEWAY_MAC
        )

    def question(self) -> bytes:
        """Who has the gateway's address?"""
        asked = frames.arp(operation=1, sender_mac=self.mac, sender=str(GUEST.ip), wanted="192.168.1.1")
        return frames.ethernet("arp", asked, source=self.mac)

    def receive(self) -> bytes:
        """The next frame. Raises TimeoutError."""
        while len(self.arrived) < 4 or len(self.arrived) < 4 + struct.unpack(">I", self.arrived[:4])[0]:
            piece = self.cable.recv(65536)
            assert piece, "the cable was pulled"
            self.arrived += piece
        (length,) = struct.unpack(">I", self.arrived[:4])
        frame = bytes(self.arrived[4 : 4 + length])
        del self.arrived[: 4 + length]
        return frame

    def receive_with(self, mark: bytes) -> bytes:
        """The next frame that holds the mark. Raises TimeoutError."""
        while mark not in (frame := self.receive()):
            continue
        return frame

    def pending(self) -> bytes:
        """What has come for it and was not received yet."""
        self.cable.settimeout(0)
        with suppress(BlockingIOError):
            while piece := self.cable.recv(65536):
                self.arrived += piece
        self.cable.settimeout(self.patience_s)
        pending = bytes(self.arrived)
        self.arrived.clear()
        return pending

    def drain(self) -> None:
        """What came for it is forgotten."""
        self.pending()

    def mac_bytes(self) -> bytes:
        """Its card's address as it stands in a frame."""
        return frames.mac(self.mac)

    def close(self) -> None:
        """The cable hangs loose."""
        self.cable.close()


@contextmanager
def as_user(name: str) -> Iterator[None]:
    """What the kernel is asked for meanwhile is asked by that user."""
    entry, before = pwd.getpwnam(name), (os.geteuid(), os.getegid())
    _become(entry.pw_uid, entry.pw_gid)
    try:
        yield
    finally:
        _become(*before)


def _become(uid: int, gid: int) -> None:
    os.seteuid(0)
    os.setegid(gid)
    os.seteuid(uid)


def _opened_in(namespace: Namespace, interface: str) -> socket.socket:
    """A packet socket inside the namespace; where a socket was made is where it stays."""

    def made() -> socket.socket:
        sniffing = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sniffing.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sniffing.bind((interface, 0))
        sniffing.settimeout(0)
        return sniffing

    return in_namespace(namespace.descriptor, made)
