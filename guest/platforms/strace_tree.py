"""The sample's process tree on Linux: launched under strace as its own user, in a network of its own, and ended.

strace follows every fork, so the tree is what strace traces, whether it daemonizes or not, and the tree is empty when
strace ends. Its output goes through a FIFO in a directory of the agent's, which the sample cannot open.
"""

import contextlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from contracts.guest import agent_pb2 as pb
from guest import limits
from guest.journal import Journal
from guest.platforms import PlatformRefused, Program, Stopped, processes
from guest.platforms.gathering import Gathering, read_all
from guest.platforms.private_network import in_private_network
from guest.platforms.trace_lines import TraceLines

STRACE = "/usr/bin/strace"
_OOM_SCORE = Path("/proc/self/oom_score_adj")  # proc(5): whom the kernel ends first when memory is short
_SAMPLE_OOM_SCORE = "500"
_LIMITS = {resource.RLIMIT_NPROC: limits.PROCESSES_MAX, resource.RLIMIT_CORE: 0}
TRACED = (
    "%process,%file,%network,%creds,ptrace,kill,tkill,tgkill,pidfd_send_signal,process_vm_readv,process_vm_writev,"
    "memfd_create,fchmod,fchown,ftruncate,unshare,setns,bpf,?userfaultfd,perf_event_open,init_module,finit_module,"
    "delete_module,keyctl,seccomp,personality,reboot,sethostname,settimeofday,clock_settime,prctl,io_uring_setup,"
    "?dup2,dup3,?nanosleep,clock_nanosleep"
)
IN_FULL = "!execve,execveat"
"""What strace does not cut short: a program's arguments beyond the 32nd, and its environment."""


def strace_argv(program: Program, fifo: Path) -> list[str]:
    """The whole command.

    The environment is set by strace for the sample only (`-E`), so that it cannot steer the tracer, which is root.
    """
    environment = [part for name, value in program.environment.items() for part in ("-E", f"{name}={value}")]
    return [
        *(STRACE, "-f", "-u", program.user, "--seccomp-bpf", "-ttt", "-yy", "-s", str(program.string_bytes)),
        *("--quiet=attach,personality", "-e", f"trace={TRACED}", "-e", f"abbrev={IN_FULL}"),
        *("-o", str(fifo)),
        *environment,
        "--",
        *program.argv,
    ]


class StraceTree:
    """One launched program and everything that came from it."""

    def __init__(self, program: Program, journal: Journal) -> None:
        self._program = program
        self._journal = journal
        self._lines = TraceLines(on_started=self._on_started, on_exited=self._on_exited)
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Lock()
        self._stopped: Stopped | None = None
        self._tracer: subprocess.Popen[bytes]
        self.pid = 0
        self.started_at_ns = 0

    @property
    def exec_error(self) -> str:
        """Why the kernel refused the program; empty when it runs."""
        return self._lines.exec_error

    @classmethod
    def launch(cls, program: Program, journal: Journal) -> "StraceTree":
        """The first process was executed, or could not be. Raises PlatformRefused."""
        tree = cls(program, journal)
        try:
            tree._start()
        except OSError as error:
            raise PlatformRefused(f"the tracer cannot be started: {error}") from error
        if not tree._lines.wait_for_exec(limits.LAUNCH_TIMEOUT_S):
            tree.stop()
            raise PlatformRefused("the program was not started in time")
        tree.pid = tree._lines.first_pid
        return tree

    def stop(self) -> Stopped:
        """No process of the tree exists, and all that they did is in the journal. Safe to repeat."""
        with self._stopping:
            if self._stopped is None:
                self._stopped = self._stop()
            return self._stopped

    def _start(self) -> None:
        fifo = self._program.work_dir / "trace.fifo"
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo, 0o600)
        trace = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.started_at_ns = time.time_ns()
        self._tracer = in_private_network(lambda: self._popen(fifo), has_card=self._program.has_network)
        for name, stream in (("stdout", self._tracer.stdout), ("stderr", self._tracer.stderr)):
            self._journal.open_source(name, limits.OUTPUT_MAX_BYTES)
            self._run(self._copy_output, name, stream)
        self._run(self._follow, trace)

    def _popen(self, fifo: Path) -> "subprocess.Popen[bytes]":
        with _limited():
            return subprocess.Popen(
                strace_argv(self._program, fifo),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._program.cwd,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                start_new_session=True,
            )

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _copy_output(self, source: str, stream: IO[bytes]) -> None:
        gathering = Gathering(lambda piece: self._journal.evidence(source, piece))
        read_all(stream.fileno(), gathering.add, is_over=lambda: False, idle=gathering.flush)
        gathering.flush()

    def _follow(self, trace: int) -> None:
        gathering = Gathering(self._keep_trace)

        def take(piece: bytes) -> None:
            self._lines.feed(piece)
            gathering.add(piece)

        try:
            # A tracer that fails before it opens the FIFO leaves it without a writer for ever.
            read_all(trace, take, is_over=lambda: self._tracer.poll() is not None, idle=gathering.flush)
        finally:
            gathering.flush()
            os.close(trace)
            self._lines.end()
            self._on_tracer_ended()

    def _keep_trace(self, piece: bytes) -> None:
        if self._program.trace_source:
            self._journal.evidence(self._program.trace_source, piece)

    def _on_started(self, pid: int) -> None:
        event = pb.ProcessStarted(pid=pid, is_first=pid == self._lines.first_pid)
        self._journal.add(pb.Event(process_started=event))

    def _on_exited(self, pid: int, exit_code: int | None, signal: int | None) -> None:
        event = pb.ProcessExited(pid=pid, is_first=pid == self._lines.first_pid, exit_code=exit_code, signal=signal)
        self._journal.add(pb.Event(process_exited=event), is_vital=event.is_first)

    def _on_tracer_ended(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._tracer.wait(timeout=limits.TREE_END_TIMEOUT_S)
        left = processes.of_sample(self._program.user, tracer=self._tracer.pid)
        if left:
            self._journal.log("processes_escaped_the_tracer", f"{len(left)} of the sample's user are left")
        else:
            self._journal.add(pb.Event(tree_empty=pb.TreeEmpty()), is_vital=True)

    def _stop(self) -> Stopped:
        user, tracer = self._program.user, self._tracer.pid
        deleted = processes.rescue_deleted(processes.of_sample(user, tracer=tracer), self._program.work_dir / "deleted")
        killed = processes.kill_all(lambda: processes.of_sample(user, tracer=tracer))
        try:
            self._tracer.wait(timeout=limits.TREE_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._journal.log("tracer_hung")
            self._tracer.kill()
        for thread in self._threads:
            thread.join(timeout=limits.TREE_END_TIMEOUT_S)
        return Stopped(killed=killed, deleted_files=deleted)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """What is started meanwhile inherits the sample's limits, and a score that lets the kernel kill it first.

    The agent is root, whom the limits do not touch, and keeps them; the score is its own again afterwards. Programs
    that set both and then become the tracer would each cost an emulated guest as much as the sample's own start.
    """
    for limit, most in _LIMITS.items():
        hard = resource.getrlimit(limit)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (allowed, allowed))
    score = _OOM_SCORE.read_text(encoding="ascii")
    _OOM_SCORE.write_text(_SAMPLE_OOM_SCORE, encoding="ascii")
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # outside a guest: who may not lower it keeps the sample's
            _OOM_SCORE.write_text(score, encoding="ascii")
