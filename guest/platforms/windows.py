"""Windows: what the agent needs to be enrolled there. Observing a sample on Windows is not written yet, and is refused.

`capabilities` says so in the handshake, so no task that needs it is ever started on such a machine.
"""

import ctypes
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from guest import limits
from guest.journal import Journal
from guest.platforms import Phase, PlatformRefused, PluginProgram, Program, Tree


class Windows:
    """Windows 10 and later."""

    name = "windows"
    capabilities: tuple[str, ...] = ()

    def boot_id(self) -> str:
        """The instant of the boot, to the second."""
        return f"boot-{int(time.time() - time.monotonic())}"

    def set_clock(self, wall_clock_ns: int) -> None:
        """The system time is that instant. Raises PlatformRefused."""
        at = datetime.fromtimestamp(wall_clock_ns / 1e9, UTC)
        parts = (at.year, at.month, 0, at.day, at.hour, at.minute, at.second, at.microsecond // 1000)
        if sys.platform != "win32" or not ctypes.windll.kernel32.SetSystemTime(struct.pack("8H", *parts)):
            raise PlatformRefused("the clock cannot be set")

    def mix_entropy(self, entropy: bytes) -> None:
        """Nothing to do: the system takes a new seed when its virtual machine generation changes."""
        del entropy

    def stand_by(self, entry: Phase) -> Callable[[bytes], bytes]:
        """A fresh interpreter, started when it is asked, runs the phase of that name. Raises PlatformRefused."""

        def ask(argument: bytes) -> bytes:
            argv = [sys.executable, "-m", "guest.agent", entry.__name__]
            outcome = subprocess.run(argv, input=argument, stdout=subprocess.PIPE, check=False)
            if outcome.returncode != 0:
                raise PlatformRefused(f"a phase of the agent ended with {outcome.returncode}")
            return outcome.stdout[: limits.MESSAGE_MAX_BYTES]

        return ask

    def give_to_sample(self, path: Path, user: str) -> None:
        """Refused: see the module."""
        raise PlatformRefused(f"{path} cannot be given to {user}: samples are not launched on Windows yet")

    def launch(self, program: Program, journal: Journal) -> Tree:
        """Refused: see the module."""
        del journal
        raise PlatformRefused(f"{program.argv[0]} is not launched: samples are not observed on Windows yet")

    def check_tracer(self) -> None:
        """Refused: see the module."""
        raise PlatformRefused("there is no tracer for Windows yet")

    def start_plugin(self, program: PluginProgram) -> "subprocess.Popen[bytes]":
        """Refused: see the module."""
        raise PlatformRefused(f"{program.name} is not started: guest plugins do not run on Windows yet")

    def end_plugin(self, process: "subprocess.Popen[bytes]", program: PluginProgram) -> None:
        """There is none."""
        del process, program

    def wait_for_ever(self) -> None:
        """Sleeps until the machine is destroyed."""
        while True:  # bounded by the host
            time.sleep(limits.TOOL_TIMEOUT_S)
