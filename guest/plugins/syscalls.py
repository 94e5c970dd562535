"""`syscalls`: the system calls of the sample's process tree, as strace prints them, in the evidence source `syscalls`.

The agent follows every sample with the tracer, because that is how it knows the tree; this plugin makes the trace part
of the evidence, and bounds it. It can keep the observation alive for samples that leave their work to others, such as
a service or a timer of the system, and are gone before it begins.
"""

import threading
from typing import ClassVar

from guest import limits
from guest.journal import Journal
from guest.platforms import Platform, PlatformRefused

SOURCE = "syscalls"


class PluginRefused(Exception):
    """The plugin cannot do what it was asked; the message says why."""


class SyscallTracer:
    """Armed, it keeps the trace. Configuration: `trace_max_mib`, `string_bytes`, `keep_alive_s` (0: not at all)."""

    NAME: ClassVar[str] = "syscalls"
    VERSION: ClassVar[str] = "1.2.0"
    RANGES: ClassVar[dict[str, tuple[int, int]]] = {
        "trace_max_mib": (1, 256),
        "string_bytes": (64, 8192),
        "keep_alive_s": (0, 3600),
    }

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._trace_max_bytes = limits.TRACE_MAX_BYTES
        self._keep_alive_s = 0
        self._letting_go: threading.Timer | None = None
        self.string_bytes = limits.STRING_BYTES
        self.is_armed = False

    def initialize(self, config: dict[str, object]) -> None:
        """Ready to arm: the tracer works here. Raises PluginRefused."""
        for key, value in config.items():
            low, high = self.RANGES.get(key, (1, 0))
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                allowed = ", ".join(f"{name} {least}-{most}" for name, (least, most) in self.RANGES.items())
                raise PluginRefused(f"{self.NAME}: {key} cannot be {value!r}; allowed: {allowed}")
            if key == "string_bytes":
                self.string_bytes = value
            elif key == "keep_alive_s":
                self._keep_alive_s = value
            else:
                self._trace_max_bytes = value * 1024 * 1024
        try:
            self._platform.check_tracer()
        except PlatformRefused as error:
            raise PluginRefused(f"{self.NAME}: {error}") from error

    def arm(self, journal: Journal) -> None:
        """The trace of what is launched from now on is evidence."""
        journal.open_source(SOURCE, self._trace_max_bytes)
        if self._keep_alive_s and not self.is_armed:
            journal.keep_alive(self.NAME, is_held=True)
            self._letting_go = threading.Timer(self._keep_alive_s, journal.keep_alive, (self.NAME,), {"is_held": False})
            self._letting_go.daemon = True
            self._letting_go.start()
        self.is_armed = True

    def shutdown(self) -> None:
        """The trace of what is launched from now on is not kept, and nothing is kept alive."""
        self.is_armed = False
        if self._letting_go is not None:
            self._letting_go.cancel()
