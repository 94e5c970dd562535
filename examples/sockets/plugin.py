"""Lists what the sample's TCP sockets are connected to. `SampleStarted` tells it in which process to look."""

import ipaddress
import threading
from pathlib import Path
from typing import Any

from malbox.sdk.guest import Event, GuestPlugin

LOOKS_MAX = 10_000
SOCKETS_MAX = 1000
STATES = {
    1: "established",
    2: "connecting",
    3: "answering",
    6: "closed lately",
    7: "closed",
    8: "closing",
    10: "listens",
}
"""Those that say something to an analyst (linux/tcp_states.h)."""


class Sockets(GuestPlugin):
    """One thread looks, from the start of the sample to the flush."""

    def initialize(self, config: dict[str, Any]) -> None:
        """Nothing is known of the sample yet."""
        self._interval_s = config["interval_ms"] / 1000
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._seen: set[tuple[str, str, int]] = set()

    def on_event(self, event: Event) -> None:
        """The sample has a network of its own; its first process leads there, also when it has ended meanwhile."""
        table = Path("/proc", str(event.content["pid"]), "net/tcp")
        thread = threading.Thread(target=self._watch, args=(table,))
        self._threads.append(thread)
        thread.start()

    def flush(self) -> None:
        """What was seen was emitted."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, path: Path) -> None:
        try:
            table = path.open(encoding="ascii")
        except OSError:
            self.log("sample_had_ended_already")
            return
        with table:
            for _look in range(LOOKS_MAX):
                table.seek(0)
                self._look(table.read().splitlines()[1:])
                if self._is_over.wait(self._interval_s):
                    return

    def _look(self, lines: list[str]) -> None:
        for line in lines:
            local, remote, state = line.split()[1:4]
            socket = (local, remote, int(state, 16))
            if socket not in self._seen and len(self._seen) < SOCKETS_MAX:
                self._seen.add(socket)
                shown = STATES.get(socket[2], state)
                self.emit("sockets", {"local": address(local), "remote": address(remote), "state": shown})


def address(text: str) -> str:
    """`0100007F:1F90` as an address, which is little-endian there, and a port, which is not."""
    host, _, port = text.partition(":")
    return f"{ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(host), 'little'))}:{int(port, 16)}"
