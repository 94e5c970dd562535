"""Reads of a trace, as it streams, only what the agent must know: which processes started and how they ended.

What the calls mean is for the host to find out; this stays small because hostile programs shape its input.
"""

import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from guest import limits

_LINE = re.compile(rb"^(\d{1,10}) +\d+\.\d+ (.*)$", re.DOTALL)
_EXITED = re.compile(rb"^\+\+\+ exited with (\d{1,3}) \+\+\+$")
_KILLED = re.compile(rb"^\+\+\+ killed by (SIG[A-Z0-9_+]{1,20})(?: \(core dumped\))? \+\+\+$")
_REALTIME = re.compile(r"^SIGRT_?(\d{1,2})$")


class TraceLines:
    """Fed with pieces of the trace in order; calls back for each process. Threads of a process are not processes."""

    def __init__(
        self,
        *,
        on_started: Callable[[int], None],
        on_exited: Callable[[int, int | None, int | None], None],
    ) -> None:
        self._on_started = on_started
        self._on_exited = on_exited
        self._rest = b""
        self._is_skipping = False
        self._known: dict[int, bool] = {}
        self._executed = threading.Event()
        self._has_executed = False
        self.first_pid = 0
        self.exec_error = ""

    def wait_for_exec(self, timeout_s: float) -> bool:
        """The first program was executed, or refused, or the trace ended; False when none of that came in time."""
        return self._executed.wait(timeout_s) and self._has_executed

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if not self._is_skipping:
                self._line(line)
            self._is_skipping = False
        if len(self._rest) > limits.TRACE_LINE_MAX_BYTES:
            self._rest, self._is_skipping = b"", True

    def end(self) -> None:
        """Nothing follows."""
        self._executed.set()

    def _line(self, line: bytes) -> None:
        match = _LINE.match(line)
        if match is None:
            return
        pid, rest = int(match[1]), match[2]
        self.first_pid = self.first_pid or pid
        if not self._has_executed and pid == self.first_pid:
            self._first_exec(rest)
        if pid not in self._known:
            self._known[pid] = _is_process(pid)
            if self._known[pid]:
                self._on_started(pid)
        if rest.startswith(b"+++ "):
            self._end_of(pid, rest)

    def _first_exec(self, rest: bytes) -> None:
        if not rest.startswith((b"execve(", b"<... execve resumed>")) or b" = " not in rest:
            return
        outcome = rest.rpartition(b" = ")[2].decode("ascii", "replace")
        self.exec_error = "" if outcome.strip() == "0" else outcome.removeprefix("-1 ").strip()[:200]
        self._has_executed = True
        self._executed.set()

    def _end_of(self, pid: int, rest: bytes) -> None:
        is_process = self._known.pop(pid, True)
        if not is_process:
            return
        if match := _EXITED.match(rest):
            self._on_exited(pid, int(match[1]), None)
        elif match := _KILLED.match(rest):
            self._on_exited(pid, None, _signal_number(match[1].decode("ascii")))


def _is_process(pid: int) -> bool:
    """Whether the task leads its thread group. One that is gone already counts as a process."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return True
    match = re.search(rb"^Tgid:\s+(\d+)$", status, re.MULTILINE)
    return match is None or int(match[1]) == pid


def _signal_number(name: str) -> int:
    """0 for a name that this system does not have."""
    if match := _REALTIME.match(name):
        return signal.SIGRTMIN + int(match[1])
    return int(signal.Signals.__members__.get(name, 0))
