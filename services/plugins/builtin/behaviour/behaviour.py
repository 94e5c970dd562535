"""Adds up calls to what a program did: its processes, the files it touched, whom it tried to reach, and when.

Attempts count like successes, with their error. Paths are made absolute with the working directory that the trace
shows. Each thing is also said as a fact, for the rules. Standard library only: this runs in the sandbox.
"""

import posixpath
from collections.abc import Callable
from typing import Any

from . import facts, files, network
from .record import (
    ARGV_MAX,
    FILES_MAX,
    NETWORK_MAX,
    PIDS_MAX,
    PROCESSES_MAX,
    TIMELINE_MAX,
    Budget,
    EventRecord,
    FileRecord,
    NetworkRecord,
    ProcessRecord,
    as_json,
    shown,
)
from .strace import Call, Exit, Joiner, descriptor_of, string_of, strings_in

FORKS = frozenset({"clone", "clone3", "fork", "vfork"})
EXECS = {"execve": 0, "execveat": 1}
SENDS = frozenset({"connect", "sendto", "sendmsg", "sendmmsg"})
NOTED = frozenset(
    {
        *("ptrace", "process_vm_readv", "process_vm_writev", "kill", "tkill", "tgkill", "pidfd_send_signal", "bind"),
        *("listen", "memfd_create", "bpf", "perf_event_open", "init_module", "finit_module", "delete_module", "mount"),
        *("umount2", "pivot_root", "chroot", "setns", "unshare", "keyctl", "reboot", "sethostname", "clock_settime"),
        *("settimeofday", "setuid", "setgid", "setresuid", "setreuid", "capset", "userfaultfd", "io_uring_setup"),
    }
)
SAID_ONLY = frozenset({"prctl", "socket"})
"""Calls that every program makes: the rules are told, the timeline is not."""
WANTED = FORKS | frozenset(EXECS) | SENDS | files.CALLS | NOTED | SAID_ONLY | facts.READERS | frozenset(facts.DATED)
PIDS_SEEN_MAX = 20_000
INTERPRETED_MAX = 5
"""Among so many words a script's own path stands behind its interpreter and the options of that."""

Say = Callable[[str, facts.Fields, dict[str, Any]], None]
"""Told of each fact: its kind, its fields, and where it stands in the trace."""


def _moved(action: str, before: bytes, path: bytes) -> facts.Fields:
    """What a file was called before, if the call gave it another name."""
    if action != "renamed" or not before:
        return {}
    return {"source": shown(before), "adds_extension": path.startswith(before + b".")}


def _to_nobody(_kind: str, _fields: facts.Fields, _place: dict[str, Any]) -> None:
    """Nobody asks."""


class Behaviour:
    """Fed with the lines of a trace in order."""

    def __init__(self, say: Say = _to_nobody) -> None:
        self._say_to = say
        self._joiner = Joiner(WANTED)
        self._budget = Budget()
        self._begun_at: float | None = None
        self._processes: dict[int, ProcessRecord] = {}
        self._ended: list[ProcessRecord] = []
        self._leaders: dict[int, int] = {}
        self._working_dirs: dict[int, str] = {}
        self._files: dict[str, FileRecord] = {}
        self._network: dict[tuple[object, ...], NetworkRecord] = {}
        self._peers: dict[tuple[int, str], network.Address] = {}
        self._timeline: list[EventRecord] = []
        self._place: dict[str, Any] = {}
        self._own: frozenset[str] | None = None

    def feed(self, line: str) -> None:
        """The next line counts."""
        what = self._joiner.read(line)
        if isinstance(what, Call):
            self._on_call(what)
        elif isinstance(what, Exit):
            self._on_exit(what)

    @property
    def lines(self) -> int:
        """How many lines there were."""
        return self._joiner.lines

    def result(self) -> dict[str, Any]:
        """The JSON result."""
        processes = sorted([*self._ended, *self._processes.values()], key=lambda process: process.started_at_s)
        return {
            "processes": [as_json(process) for process in processes],
            "timeline": [as_json(event) for event in self._timeline],
            "files": [as_json(file) for file in self._files.values()],
            "network": [as_json(attempt) for attempt in self._network.values()],
            "counts": self.counts(),
            "is_truncated": self._budget.is_truncated,
        }

    def counts(self) -> dict[str, int]:
        """How much there was."""
        return {
            "lines": self._joiner.lines,
            "unreadable_lines": self._joiner.unreadable,
            "processes": len(self._ended) + len(self._processes),
            "files": len(self._files),
            "network": len(self._network),
            "timeline": len(self._timeline),
        }

    def _on_call(self, call: Call) -> None:
        at_s = self._offset(call.at)
        pid = self._leader(call.pid)
        self._place = {"line": call.line, "pid": pid, "at_s": at_s}
        self._known(pid, at_s)
        working_dir = next((a for a in call.arguments[:3] if a.startswith("AT_FDCWD</")), "")
        if working_dir:
            self._working_dirs[pid] = descriptor_of(working_dir)
        if call.name in FORKS:
            self._on_fork(call, pid, at_s)
        elif call.name in EXECS:
            self._on_exec(call, pid, at_s)
        elif call.name in SENDS:
            self._on_send(call, pid, at_s)
        elif call.name in files.CALLS:
            self._on_file(call, pid, at_s)
        elif call.name in facts.DATED:
            self._on_dated(call, pid)
        elif call.name in NOTED or call.name in SAID_ONLY:
            self._on_noted(call, pid, at_s)
        for kind, fields in facts.of_call(call):
            self._say(kind, fields)

    def _on_fork(self, call: Call, pid: int, at_s: float) -> None:
        child = call.number
        if child is None or child <= 0:
            return
        if "CLONE_THREAD" in "".join(call.arguments):
            if len(self._leaders) < PIDS_SEEN_MAX:
                self._leaders[child] = pid
            self._forget(child)
            return
        self._working_dirs.setdefault(child, self._working_dirs.get(pid, "/"))
        process = self._known(child, at_s)
        if process is not None and process.ppid is None:
            process.ppid = pid
            self._say("process", {"parent": self._program(pid)})
            parent = self._processes.get(pid)
            if parent is not None and not process.argv:
                process.exe, process.argv = parent.exe, list(parent.argv)

    def _on_exec(self, call: Call, pid: int, at_s: float) -> None:
        first = EXECS[call.name]
        path = self._path(call.argument(first), pid) or files.shown_path(call.argument(0))
        argv = strings_in(call.argument(first + 1))[:ARGV_MAX]
        self._say_exec(path, argv, call)
        process = self._processes.get(pid)
        if not call.error and process is not None:
            process.exe, process.argv = self._budget.text(path), [self._budget.text(part) for part in argv]
        if not call.error or call.error != "ENOENT":  # a shell tries every directory of PATH
            self._note(
                at_s, pid, "exec" if not call.error else "exec_failed", path + f" {call.error}".rstrip().encode()
            )

    def _on_send(self, call: Call, pid: int, at_s: float) -> None:
        descriptor = descriptor_of(call.argument(0))
        socket = (pid, call.argument(0).partition("<")[0])
        address = network.socket_address(", ".join(call.arguments[1:]))
        if call.name == "connect":
            if address is not None and len(self._peers) < PIDS_SEEN_MAX:
                self._peers[socket] = address
        elif address is None:  # a connected socket; strace may know it from before it was connected
            address = self._peers.get(socket) or network.connected_peer(descriptor)
        if address is None:
            if call.name == "connect" and (unix := facts.unix_fields(call, self._program(pid))):
                self._say("connect", unix)
            return
        protocol = network.protocol_of(descriptor)
        query = None
        if call.name != "connect":
            query = network.question_to(address, network.payload_of(call.argument(1)), protocol)
        self._say_reached(call, address, protocol, query)
        if call.name != "connect" and not network.is_dns(address):
            return
        outcome = call.error or "ok"
        key = (pid, address, protocol, query, outcome)
        if key in self._network:
            self._network[key].count += 1
        elif self._budget.has_room(len(self._network), NETWORK_MAX):
            self._network[key] = NetworkRecord(
                at_s, pid, address.family, protocol, address.address, address.port, query, outcome
            )
            what = f"{protocol or 'ip'} {address.address} port {address.port} {query or ''} {outcome}"
            self._note(at_s, pid, "dns_question" if query else call.name, " ".join(what.split()).encode())

    def _on_file(self, call: Call, pid: int, at_s: float) -> None:
        before = b""
        for touch in files.touches(call):
            path = touch.shown or self._path(touch.argument, pid, base=touch.base)
            if path and not files.is_silent(path, touch.action):
                self._say_file(path, touch.action, call, _moved(touch.action, before, path))
            before = path
            if not path or files.is_noise(path, touch.action, call.error):
                continue
            self._touch(path, touch.action, pid, call.error, at_s)

    def _say_exec(self, path: bytes, argv: list[bytes], call: Call) -> None:
        """Said in full, whatever is left of the record's budget: a flood of text must not blind the rules."""
        exe, words = shown(path), [shown(part) for part in argv]
        is_first = self._own is None and not call.error
        if is_first:
            script = next((word for word in words[1:INTERPRETED_MAX] if word.startswith("/")), exe)
            self._own = frozenset({exe, *words[:1], script})
        parent = self._program(self._place["pid"])
        self._say("exec", facts.exec_fields(exe, words, call, parent=parent, is_first=is_first))

    def _say_reached(self, call: Call, address: network.Address, protocol: str | None, query: str | None) -> None:
        fields = {**facts.address_fields(address), "protocol": protocol or ""}
        if query is not None:
            self._say("dns", {**fields, "query": query})
        elif call.name == "connect" or not network.is_dns(address):
            program = self._program(self._place["pid"])
            self._say("connect", {**fields, "error": call.error, "program": program})

    def _on_noted(self, call: Call, pid: int, at_s: float) -> None:
        detail = f"{', '.join(call.arguments)} = {call.result}".encode("latin-1", "replace")
        if call.name in NOTED:
            self._note(at_s, pid, call.name, detail)
        self._say("call", facts.named(call, shown(detail)))
        address = network.socket_address(", ".join(call.arguments[1:])) if call.name == "bind" else None
        if address is not None:
            self._say("bind", {**facts.address_fields(address), "error": call.error})

    def _on_dated(self, call: Call, pid: int) -> None:
        index = facts.DATED[call.name][0]
        named = self._path(call.argument(index), pid, base=files.base_of(call, index))
        path, age_s = named or files.shown_path(call.argument(0)), facts.age_s(call)
        if path and age_s is not None:
            self._say_file(path, "dated", call, {"age_s": age_s})

    def _say_file(self, path: bytes, action: str, call: Call, others: facts.Fields) -> None:
        fields = facts.file_fields(shown(path), action, call, program=self._program(self._place["pid"]))
        self._say("file", {**fields, "is_sample": fields["path"] in (self._own or ()), **others})

    def _program(self, pid: int) -> str:
        process = self._processes.get(pid)
        return process.exe or "" if process is not None else ""

    def _say(self, kind: str, fields: facts.Fields) -> None:
        self._say_to(kind, fields, self._place)

    def _touch(self, raw: bytes, action: str, pid: int, error: str, at_s: float) -> None:
        key = raw.decode("latin-1")
        record = self._files.get(key)
        if record is None:
            if not self._budget.has_room(len(self._files), FILES_MAX):
                return
            record = self._files[key] = FileRecord(self._budget.text(raw))
        if action not in record.actions:
            record.actions.append(action)
            if action != "read":
                self._note(at_s, pid, f"file_{action}", raw + f" {error}".rstrip().encode())
        if pid not in record.pids and len(record.pids) < PIDS_MAX:
            record.pids.append(pid)
        if error and error not in record.errors and len(record.errors) < PIDS_MAX:
            record.errors.append(error)

    def _on_exit(self, exit_: Exit) -> None:
        if self._leaders.pop(exit_.pid, exit_.pid) != exit_.pid:
            return
        process = self._processes.pop(exit_.pid, None)
        self._working_dirs.pop(exit_.pid, None)
        if process is None:
            return
        process.ended_at_s = self._offset(exit_.at)
        process.exit_code, process.signal = exit_.code, exit_.signal
        self._ended.append(process)
        self._note(process.ended_at_s, exit_.pid, "exit", (exit_.signal or str(exit_.code)).encode())

    def _offset(self, at: float) -> float:
        if self._begun_at is None:
            self._begun_at = at
        return round(max(0.0, at - self._begun_at), 6)

    def _leader(self, pid: int) -> int:
        return self._leaders.get(pid, pid)

    def _known(self, pid: int, at_s: float) -> ProcessRecord | None:
        process = self._processes.get(pid)
        if process is None and self._budget.has_room(len(self._processes) + len(self._ended), PROCESSES_MAX):
            process = self._processes[pid] = ProcessRecord(pid, None, at_s)
            self._note(at_s, pid, "process_started", b"")
        return process

    def _forget(self, pid: int) -> None:
        """A thread was taken for a process because it spoke before its creator's call returned."""
        process = self._processes.get(pid)
        if process is not None and not process.argv:
            del self._processes[pid]

    def _path(self, argument: str, pid: int, *, base: str = "") -> bytes:
        path = string_of(argument)
        if not path:
            return b""
        folder = (base or self._working_dirs.get(pid, "/")).encode("latin-1", "replace")
        return posixpath.normpath(posixpath.join(folder, path))

    def _note(self, at_s: float, pid: int, event: str, detail: bytes) -> None:
        if self._budget.has_room(len(self._timeline), TIMELINE_MAX):
            self._timeline.append(EventRecord(at_s, pid, event, self._budget.text(detail)))
