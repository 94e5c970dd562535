"""Linux: clock, entropy, fresh processes, and the sample's user. The process tree is in `strace_tree`."""

import contextlib
import ctypes
import fcntl
import os
import pwd
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from guest import limits
from guest.journal import Journal
from guest.platforms import Phase, PlatformRefused, PluginProgram, Program, Tree, plugin_process
from guest.platforms.strace_tree import STRACE, StraceTree

# linux/random.h
_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207
_LENGTH = struct.Struct("I")
# linux/prctl.h
_PR_SET_PDEATHSIG = 1


class Linux:
    """Any Linux with strace and util-linux. Launching and the clock need root."""

    name = "linux"
    capabilities: tuple[str, ...] = ("put", "launch", "syscalls", "collect", "private-network", "plugins")

    def __init__(self) -> None:
        self._tracer_works = False

    def boot_id(self) -> str:
        """The kernel's."""
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def set_clock(self, wall_clock_ns: int) -> None:
        """CLOCK_REALTIME shows that instant. Raises PlatformRefused."""
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, wall_clock_ns)
        except (OSError, OverflowError) as error:
            raise PlatformRefused(f"the clock cannot be set: {error}") from error

    def mix_entropy(self, entropy: bytes) -> None:
        """The bytes count as entropy in the kernel, and its generator takes a new seed at once.

        A restored snapshot holds the generator's old state; without this every incarnation would draw the same keys.
        """
        request = struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy
        try:
            with Path("/dev/random").open("wb", buffering=0) as device:
                fcntl.ioctl(device, _RNDADDENTROPY, request)
                fcntl.ioctl(device, _RNDRESEEDCRNG)
        except OSError as error:
            raise PlatformRefused(f"the random generator takes no entropy: {error}") from error

    def stand_by(self, entry: Phase) -> Callable[[bytes], bytes]:
        """Forks; the child waits to run `entry`. Libraries that drew nothing before draw their first seed there.

        No timeout: how long a phase lasts is for the host to say. Raises PlatformRefused.
        """
        asked, answered = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            _be_child(entry, asked, answered)
        os.close(asked[0])
        os.close(answered[1])

        def ask(argument: bytes) -> bytes:
            with contextlib.suppress(BrokenPipeError), os.fdopen(asked[1], "wb") as question:
                question.write(_LENGTH.pack(len(argument)) + argument)
            with os.fdopen(answered[0], "rb") as pipe:
                answer = pipe.read(limits.MESSAGE_MAX_BYTES)
            _, status = os.waitpid(pid, 0)
            if status != 0:
                raise PlatformRefused(f"a phase of the agent ended with status {os.waitstatus_to_exitcode(status)}")
            return answer

        return ask

    def give_to_sample(self, path: Path, user: str) -> None:
        """The file is the sample user's, mode 0700. Raises PlatformRefused."""
        try:
            account = pwd.getpwnam(user)
            os.chown(path, account.pw_uid, account.pw_gid)
            path.chmod(0o700)
        except (KeyError, OSError) as error:
            raise PlatformRefused(f"the sample cannot be given to {user}: {error}") from error

    def launch(self, program: Program, journal: Journal) -> Tree:
        """The program runs under the tracer, in a network of its own. Raises PlatformRefused."""
        return StraceTree.launch(program, journal)

    def check_tracer(self) -> None:
        """The tracer is installed and may trace. Raises PlatformRefused.

        Tried until it did once: nothing that could change it happens between the agent's start and the sample's.
        """
        if self._tracer_works:
            return
        argv = [STRACE, "-f", "--seccomp-bpf", "-o", os.devnull, "-e", "trace=%process", "--", "/bin/true"]
        try:
            outcome = subprocess.run(argv, check=False, capture_output=True, timeout=limits.TOOL_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PlatformRefused(f"no tracer: {error}") from error
        if outcome.returncode != 0:
            raise PlatformRefused(f"the tracer cannot trace: {outcome.stderr[:200]!r}")
        self._tracer_works = True

    def start_plugin(self, program: PluginProgram) -> "subprocess.Popen[bytes]":
        """The plugin's process runs as a user of its own, bounded, without a network. Raises PlatformRefused."""
        return plugin_process.start(program)

    def end_plugin(self, process: "subprocess.Popen[bytes]", program: PluginProgram) -> None:
        """No process of the plugin's user exists. Safe to repeat."""
        plugin_process.end(process, program)

    def wait_for_ever(self) -> None:
        """Sleeps until a signal ends it."""
        while True:  # bounded by the host, which destroys the machine
            signal.pause()


def _be_child(entry: Phase, asked: tuple[int, int], answered: tuple[int, int]) -> NoReturn:
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(asked[1])
        os.close(answered[0])
        with os.fdopen(asked[0], "rb") as question:  # not to its end: whoever was forked later holds that open
            (length,) = _LENGTH.unpack(question.read(_LENGTH.size))
            argument = question.read(length)
        with os.fdopen(answered[1], "wb") as pipe:
            entry(argument, pipe)
        code = 0
    finally:
        os._exit(code)
