"""A guest's analysis cable, as a process: frames between QEMU's socket and a card inside the machine's namespace.

    python -m services.machines.network.cable GUESTS-UID UID GID DESCRIPTOR

The descriptor is the listening socket; standard input ends with the helper; standard output has one line per event.
QEMU runs as an unprivileged user outside, so it can neither open a card nor enter
the namespace: a unix socket is the one thing that reaches from there to here. The card exists as long as this process.
It drops every privilege before it accepts anybody.
"""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path

from services.machines.network import netlink

FRAME_MAX_BYTES = 65536
_PENDING_MAX_BYTES = 1 << 20
_LENGTH = struct.Struct(">I")  # QEMU's stream back end: a frame's length, then the frame
_PEER = struct.Struct("3i")
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP_NO_PI = 0x1002
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h


class Hangup(Exception):
    """the other end is gone, or does not speak the protocol"""


class Cable:
    """The frames on their way. Both ends are non-blocking; what does not fit on the way to the guest is lost."""

    def __init__(self, card: int, guest: socket.socket) -> None:
        self._card = card
        self.guest = guest
        self._arrived = bytearray()
        self._pending = bytearray()

    @property
    def is_full(self) -> bool:
        """Whether the guest takes too little for more to be read for it."""
        return len(self._pending) >= _PENDING_MAX_BYTES

    @property
    def has_pending(self) -> bool:
        """Whether bytes wait for the guest to take them."""
        return bool(self._pending)

    def carry(self, ready: set[int]) -> None:
        """What waited at the ends that are ready has moved on. Raises Hangup."""
        if self.guest.fileno() in ready:
            self.flush()
            self.from_guest()
        if self._card in ready:
            self.to_guest()

    def hang_up(self) -> None:
        """The guest's end is gone."""
        self.guest.close()

    def from_guest(self) -> None:
        """Whole frames that have come are on the card. Raises Hangup."""
        try:
            piece = self.guest.recv(4 * FRAME_MAX_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise Hangup from error
        if not piece:
            raise Hangup
        self._arrived += piece
        start = 0
        while len(self._arrived) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._arrived, start)
            if not 0 < length <= FRAME_MAX_BYTES:
                raise Hangup
            end = start + _LENGTH.size + length
            if len(self._arrived) < end:
                break
            self._put(bytes(self._arrived[start + _LENGTH.size : end]))
            start = end
        del self._arrived[:start]

    def to_guest(self) -> None:
        """Frames that wait on the card are on their way to the guest. Raises Hangup."""
        while not self.is_full:
            try:
                frame = os.read(self._card, FRAME_MAX_BYTES)
            except OSError:
                break
            self._pending += _LENGTH.pack(len(frame)) + frame
        self.flush()

    def flush(self) -> None:
        """The guest has what it takes now. Raises Hangup."""
        if not self._pending:
            return
        try:
            sent = self.guest.send(self._pending)
        except BlockingIOError:
            return
        except OSError as error:
            raise Hangup from error
        del self._pending[:sent]

    def _put(self, frame: bytes) -> None:
        try:
            os.write(self._card, frame)
        except OSError:
            return  # the card is down, or the frame is none: as on any wire, it is lost


def main() -> None:
    """Runs until the helper is gone."""
    guests_uid, uid, gid, descriptor = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    card = _open_card()
    watches = netlink.watches()
    listening = socket.socket(fileno=descriptor)
    listening.settimeout(0)
    _drop_privileges(uid, gid)
    _say("ready")
    _serve(card, listening, guests_uid, watches)


def _serve(card: int, listening: socket.socket, uid: int, watches: list[socket.socket]) -> None:
    cable: Cable | None = None
    while True:  # ends with the helper, whose end of standard input is the lifeline
        ready = _wait(card, listening, cable, watches)
        if 0 in ready:
            return
        for watch in watches:
            if watch.fileno() in ready:
                netlink.drain(watch)
                _say("changed")
        if cable is None:
            guest = _accepted(listening, uid) if listening.fileno() in ready else None
            cable = Cable(card, guest) if guest is not None else None
            continue
        try:
            cable.carry(ready)
        except Hangup:
            cable.hang_up()
            cable = None


def _wait(card: int, listening: socket.socket, cable: Cable | None, watches: list[socket.socket]) -> set[int]:
    """The descriptors at which something happened."""
    poll = select.poll()
    for source in (0, *(watch.fileno() for watch in watches)):
        poll.register(source, select.POLLIN)
    if cable is None:
        poll.register(listening, select.POLLIN)
    else:
        poll.register(cable.guest, select.POLLIN | (select.POLLOUT if cable.has_pending else 0))
        if not cable.is_full:
            poll.register(card, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll()}


def _accepted(listening: socket.socket, uid: int) -> socket.socket | None:
    """The guest's process, if it runs as the machines' user; anybody else is turned away."""
    try:
        guest, _ = listening.accept()
    except OSError:
        return None
    _, peer_uid, _ = _PEER.unpack(guest.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if peer_uid != uid:
        guest.close()
        return None
    guest.settimeout(0)
    return guest


def _open_card() -> int:
    card = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(card, _TUNSETIFF, struct.pack("16sH22x", b"guest0", _IFF_TAP_NO_PI))
    return card


def _drop_privileges(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it (prctl(2))
    if Path("/proc/self/status").read_text(encoding="ascii").partition("CapEff:\t")[2][:16].strip("0"):
        raise SystemExit("the cable kept capabilities")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
