"""What one lease does inside the guest: the sample in, observers armed, the program launched, its traces handed out.

Each step is taken once; taking it again returns the first outcome, so that a host that lost a reply may repeat it.
"""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from contracts.guest import agent_pb2 as pb
from guest import collector, limits
from guest.journal import Journal
from guest.platforms import Platform, PlatformRefused, Program, Stopped, Tree
from guest.plugins import PLUGINS, GuestPlugin
from guest.plugins.bundles import Bundles
from guest.plugins.syscalls import SOURCE, PluginRefused, SyscallTracer
from guest.receiving import StepRefused, move, receive
from guest.settings import AgentSettings

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Session:
    """The one session of a lease. Calls come from threads and are serialised."""

    def __init__(self, settings: AgentSettings, platform: Platform, journal: Journal) -> None:
        self._settings = settings
        self._platform = platform
        self._work_dir = Path(settings.work_dir)
        self._plugins: dict[str, GuestPlugin] = {}
        self._bundles = Bundles(settings, platform, journal)
        self._configs: dict[str, str] = {}
        self._stored: dict[tuple[str, bytes], Path] = {}
        self._lock = threading.RLock()
        self._unchanged: set[collector.Identity] = set()
        self._tree: Tree | None = None
        self._since_ns = 0
        self._findings: collector.Findings | None = None
        self._flushed: pb.FlushReply | None = None
        self.journal = journal

    def put(self, header: pb.PutHeader, pieces: Iterator[bytes]) -> str:
        """The file stands where it belongs if size and hash are as announced. Raises StepRefused."""
        if header.plugin:
            return str(self._bundles.put(header.plugin, header, pieces))
        if header.size_bytes > limits.SAMPLE_MAX_BYTES:
            raise StepRefused(f"sample of {header.size_bytes} bytes; the limit is {limits.SAMPLE_MAX_BYTES}")
        target = Path(self._settings.sample_dir) / safe_name(header.name)
        with self._lock:
            if self._tree is not None:
                return str(self._stored_before(header))
            part = self._work_dir / "put.part"
            try:
                receive(part, header, pieces)
                target.parent.mkdir(parents=True, exist_ok=True)
                move(part, target)
                self._platform.give_to_sample(target, self._settings.sample_user)
            except (OSError, PlatformRefused) as error:
                raise StepRefused(f"the sample cannot be stored: {error}") from error
            finally:
                part.unlink(missing_ok=True)
            self._unchanged.add(collector.identity_of(target))
            self._stored[header.name, header.sha256] = target
        return str(target)

    def init_plugin(self, name: str, config_json: str, bundle: pb.PluginBundle | None = None) -> str:
        """The plugin is ready, or ended if it came as a bundle; the version of the agent's own. Raises StepRefused."""
        if bundle is not None:
            self._bundles.initialize(name, _object(config_json), bundle)
            return ""
        if name not in PLUGINS:
            raise StepRefused(f"no guest plugin {name[:60]!r}; there are: {', '.join(sorted(PLUGINS))}")
        with self._lock:
            if self._tree is not None:
                return self._initialized_before(name, config_json)
        plugin = PLUGINS[name](self._platform)
        try:
            plugin.initialize(_object(config_json))
        except PluginRefused as error:
            raise StepRefused(str(error)) from error
        with self._lock:
            self._plugins[name], self._configs[name] = plugin, config_json
        return plugin.VERSION

    def arm(self) -> None:
        """Every plugin that was initialised observes."""
        with self._lock:
            for plugin in self._plugins.values():
                plugin.arm(self.journal)
        self._bundles.arm()

    def tell(self, request: pb.TellRequest) -> bool:
        """The plugin is told of the fact; whether it is. Raises StepRefused."""
        if len(request.content_json) > limits.PLUGIN_FACT_MAX_BYTES:
            return False
        return self._bundles.tell(request.plugin, request.message_id, request.fact, _object(request.content_json))

    def launch(self, request: pb.LaunchRequest) -> pb.LaunchReply:
        """The program runs. Raises StepRefused."""
        with self._lock:
            if self._flushed is not None:
                raise StepRefused("the observation is over")
            if self._tree is None:
                self._since_ns = self._filesystem_now_ns()
                try:
                    self._tree = self._platform.launch(self._program(request), self.journal)
                except PlatformRefused as error:
                    raise StepRefused(str(error)) from error
            tree = self._tree
        return pb.LaunchReply(pid=tree.pid, started_at_ns=tree.started_at_ns, exec_error=tree.exec_error)

    def flush(self) -> pb.FlushReply:
        """The tree is gone, the plugins said what they saw of it, the files are listed, and the journal is sealed."""
        with self._lock:
            if self._flushed is None:
                stopped = self._tree.stop() if self._tree is not None else Stopped()
                self._bundles.flush()
                self._findings = self._find(stopped)
                self.journal.seal()
                self._flushed = pb.FlushReply(
                    sources=self.journal.summaries(),
                    last_position=self.journal.last_position,
                    killed=stopped.killed,
                )
            return self._flushed

    def collect(self) -> Iterator[pb.CollectFrame]:
        """Every file that was found, streamed. Raises StepRefused before flush."""
        with self._lock:
            if self._findings is None:
                raise StepRefused("collect comes after flush")
            return collector.hand_over(self._findings)

    def shutdown_plugin(self, name: str) -> pb.ShutdownPluginReply:
        """The plugin holds nothing any more; how it ended, if it was a bundle. One that never was is gone already."""
        with self._lock:
            plugin = self._plugins.pop(name, None)
        if plugin is not None:
            plugin.shutdown()
        return self._bundles.end(name)

    def close(self) -> None:
        """The tree is gone and every plugin too."""
        self.flush()
        for name in list(self._plugins):
            self.shutdown_plugin(name)
        self._bundles.end_all()

    def _stored_before(self, header: pb.PutHeader) -> Path:
        """Where the same file stands: whoever did not hear an earlier reply may ask again while the sample runs."""
        if (header.name, header.sha256) not in self._stored:
            raise StepRefused("the sample runs already, and is another file")
        return self._stored[header.name, header.sha256]

    def _initialized_before(self, name: str, config_json: str) -> str:
        if self._configs.get(name) != config_json:
            raise StepRefused(f"the sample runs already, without {name} or with another configuration of it")
        return PLUGINS[name](self._platform).VERSION

    def _find(self, stopped: Stopped) -> collector.Findings:
        if self._tree is None:
            return collector.Findings()
        roots = [Path(root) for root in self._settings.watched_dirs.split(os.pathsep) if root]
        return collector.find_written(
            roots, since_ns=self._since_ns, unchanged=self._unchanged, deleted=stopped.deleted_files
        )

    def _filesystem_now_ns(self) -> int:
        """The present as file systems stamp it: by a coarser clock than the system's."""
        marker = self._work_dir / "launched"
        marker.write_bytes(b"")
        return marker.stat().st_ctime_ns

    def _program(self, request: pb.LaunchRequest) -> Program:
        user = request.user or self._settings.sample_user
        if user != self._settings.sample_user:
            raise StepRefused(f"samples run as {self._settings.sample_user}, not as {user[:60]!r}")
        argv = tuple(request.argv)
        if not 0 < len(argv) <= limits.ARGUMENTS_MAX or sum(map(len, argv)) > limits.ARGUMENTS_MAX_BYTES:
            raise StepRefused("the argument list is empty or too long")
        if not Path(argv[0]).is_absolute() or any("\0" in argument for argument in argv):
            raise StepRefused("the program is not an absolute path, or an argument holds a NUL")
        tracer = self._plugins.get(SyscallTracer.NAME)
        is_traced = isinstance(tracer, SyscallTracer) and tracer.is_armed
        return Program(
            argv=argv,
            user=user,
            cwd=Path(request.cwd or self._settings.sample_dir),
            environment=self._environment(dict(request.environment)),
            work_dir=self._work_dir,
            string_bytes=tracer.string_bytes if isinstance(tracer, SyscallTracer) else limits.STRING_BYTES,
            trace_source=SOURCE if is_traced else "",
            has_network=request.has_network,
        )

    def _environment(self, asked: dict[str, str]) -> dict[str, str]:
        if len(asked) > limits.ENVIRONMENT_MAX or any("=" in k or "\0" in k + v or not k for k, v in asked.items()):
            raise StepRefused("the environment is too large or has an impossible name")
        user = self._settings.sample_user
        usual = {"HOME": self._settings.sample_dir, "USER": user, "LOGNAME": user, "PATH": _PATH, "LANG": "C.UTF-8"}
        return {**usual, **asked}


def safe_name(name: str) -> str:
    """The last part of a name, without what a file name cannot hold; `sample` when nothing is left."""
    kept = "".join(char for char in name.replace("\\", "/").rpartition("/")[2] if char.isprintable())
    kept = kept.encode("utf-8", "ignore")[: limits.SAMPLE_NAME_MAX_BYTES].decode("utf-8", "ignore").lstrip("-. ")
    return kept or "sample"


def _object(config_json: str) -> dict[str, object]:
    if len(config_json) > max(limits.CONFIG_MAX_BYTES, limits.PLUGIN_FACT_MAX_BYTES):
        raise StepRefused("the JSON is too long")
    try:
        config = json.loads(config_json or "{}")
    except (ValueError, RecursionError) as error:
        raise StepRefused("that is not JSON") from error
    if not isinstance(config, dict):
        raise StepRefused("that is not a JSON object")
    return config
