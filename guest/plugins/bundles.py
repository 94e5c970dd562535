"""The guest plugins of a lease that came as bundles: put, started, armed, told, flushed, ended, each in its process.

What goes wrong with one is its own outcome. Only what the host may not ask for at all is refused.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contracts.guest import agent_pb2 as pb
from guest import limits
from guest.journal import Journal
from guest.platforms import Platform
from guest.plugins.process import PluginProcess, program_of
from guest.receiving import StepRefused, move, receive
from guest.settings import AgentSettings

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}\Z")


class Bundles:
    """Calls come from threads; what they do to one plugin is serialised by its process."""

    def __init__(self, settings: AgentSettings, platform: Platform, journal: Journal) -> None:
        self._plugin_dir = Path(settings.plugin_dir)
        self._work_dir = Path(settings.work_dir)
        self._first_uid = settings.first_plugin_uid
        self._platform = platform
        self._journal = journal
        self._lock = threading.Lock()
        self._put: dict[str, bytes] = {}
        self._asked: dict[str, tuple[bytes, str]] = {}
        self._processes: dict[str, PluginProcess] = {}
        self._endings: dict[str, pb.ShutdownPluginReply] = {}

    def put(self, name: str, header: pb.PutHeader, pieces: Iterator[bytes]) -> Path:
        """The bundle stands where only its plugin can read it. Raises StepRefused."""
        if header.size_bytes > limits.PLUGIN_BUNDLE_MAX_BYTES:
            raise StepRefused(f"a plugin of {header.size_bytes} bytes; the limit is {limits.PLUGIN_BUNDLE_MAX_BYTES}")
        if not _NAME.match(name):
            raise StepRefused(f"{name[:60]!r} is no name of a plugin")
        folder = self._plugin_dir / name
        with self._lock:
            if self._put.get(name) == header.sha256:
                return folder
            if name in self._asked or len(self._put) >= limits.PLUGINS_MAX:
                raise StepRefused(f"{name} is another one already, or there are {limits.PLUGINS_MAX} plugins")
            part = self._work_dir / "plugin.part"
            try:
                receive(part, header, pieces)
                self._plugin_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
                folder.mkdir(mode=0o700, exist_ok=True)
                move(part, folder / "bundle.zip")
            except OSError as error:
                raise StepRefused(f"the plugin cannot be stored: {error}") from error
            finally:
                part.unlink(missing_ok=True)
            self._put[name] = header.sha256
        return folder

    def initialize(self, name: str, config: dict[str, object], bundle: pb.PluginBundle) -> None:
        """The plugin is ready, or has ended. Raises StepRefused."""
        asked = bundle.sha256, json.dumps(config, sort_keys=True)
        with self._lock:
            if self._put.get(name) != bundle.sha256:
                raise StepRefused(f"{name} was not put, or is another one")
            if self._asked.setdefault(name, asked) != asked:
                raise StepRefused(f"{name} was initialised with another configuration")
            if name not in self._processes:
                program = program_of(name, self._first_uid + len(self._processes), bundle, self._plugin_dir / name)
                timeout_s = float(max(1, min(bundle.timeout_s, limits.PLUGIN_TIMEOUT_MAX_S)))
                self._processes[name] = PluginProcess(self._platform, program, self._journal, timeout_s=timeout_s)
        self._processes[name].initialize(config)

    def arm(self) -> None:
        """Each observes, or has ended."""
        self._each(PluginProcess.arm)

    def flush(self) -> None:
        """What each saw is in the journal, or it has ended."""
        self._each(PluginProcess.flush)

    def tell(self, name: str, message_id: str, fact: str, content: object) -> bool:
        """Whether the plugin is told; one that is not there is not."""
        process = self._processes.get(name)
        return process is not None and process.tell(message_id, fact, content)

    def end(self, name: str) -> pb.ShutdownPluginReply:
        """Nothing of the plugin is left; how it ended, however often that is asked."""
        with self._lock:
            process = self._processes.get(name)
        if process is None:
            return pb.ShutdownPluginReply()
        ending = process.end()
        with self._lock:
            return self._endings.setdefault(name, ending)

    def end_all(self) -> None:
        """Nothing of any of them is left."""
        self._each(PluginProcess.end)

    def _each(self, act: Callable[[PluginProcess], object]) -> None:
        """All at once: none waits for another that hangs."""
        with self._lock:
            found = list(self._processes.values())
        with ThreadPoolExecutor(max_workers=limits.PLUGINS_MAX) as pool:
            list(pool.map(act, found))
