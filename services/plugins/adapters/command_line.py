"""The command that starts a sandbox: namespaces, what is in its file system, limits, and our first process in it.

Inside stand /usr, the virtual environment as /venv, the SDK as /app/malbox, the plugin's folder as /plugin, the inbox
read-only as /input, and bounded /scratch and /tmp. No /proc, no /etc, no device but null and urandom.
"""

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import malbox
from malbox.sdk.manifest import Manifest
from services.plugins.ports import SandboxRequest

BWRAP = "/usr/bin/bwrap"
NOBODY = 65534
MIB = 1024 * 1024
TASKS_MAX = 48  # processes and threads together; the libraries that parse start a few threads
OPEN_FILES_MAX = 256
ADDRESS_SPACE_MAX_BYTES = 64 * 1024 * MIB  # YARA-X reserves what it never touches; RLIMIT_DATA is the real limit
TMP_MIB = 16
EXECUTABLE = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/venv", "/app", "/plugin")
READABLE = ("/input", "/dev/urandom")
WRITABLE = ("/dev/null",)
EMPTIED = ("/scratch", "/tmp")  # noqa: S108 - the sandbox's own
KEPT = "/kept"
SDK_DIR = Path(malbox.__file__).parent

NAMESPACES = (
    "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
    "--disable-userns", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL",
    "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox",
)  # fmt: skip


def command(
    manifest: Manifest,
    plugin_dir: Path,
    inbox: Path,
    *,
    processors: Sequence[int],
    descriptors: tuple[int, int, int],
) -> list[str]:
    """The whole argv. The descriptors are the child's: control socket, information pipe, filter program."""
    control_fd, info_fd, seccomp_fd = descriptors
    return [
        *_not_root(),
        *("/usr/bin/taskset", "--cpu-list", ",".join(map(str, processors))),
        *(BWRAP, *NAMESPACES, *_filesystem(manifest, plugin_dir, inbox)),
        *("--info-fd", str(info_fd), "--seccomp", str(seccomp_fd), "--"),
        *_limits(manifest),
        *_interpreter(),
        f"import sys; sys.path.insert(0, '/app'); from malbox.sdk.sandboxed import main; main({control_fd})",
    ]


def start_frame(manifest: Manifest) -> dict[str, Any]:
    """What our process in the sandbox is told first."""
    return {
        "frame": "start",
        "plugin_dir": "/plugin",
        "entry": manifest.runtime.entry,
        "readable": READABLE,
        "executable": EXECUTABLE,
        "writable": (*WRITABLE, *EMPTIED, KEPT),
        "emptied": EMPTIED,
    }


def run_frame(request: SandboxRequest) -> dict[str, Any]:
    """What it is told of one run. The deadline bounds the run; processor time bounds each of its processes."""
    runtime = request.manifest.runtime
    return {
        "frame": "run",
        "sample": "/input/sample",
        "sample_name": request.sample_name,
        "scratch": "/scratch",
        "kept": KEPT if runtime.lifecycle == "scoped" else None,
        "cpu_s": runtime.timeout_s * runtime.cpu + 1,
        "config": request.config,
        "inputs": [
            {
                "plugin": one.plugin,
                "name": one.name,
                "path": f"/input/{index}",
                "media_type": one.media_type,
                "is_truncated": one.is_truncated,
            }
            for index, one in enumerate(request.inputs)
        ],
    }


def writable_mib(manifest: Manifest) -> int:
    """Memory that the sandbox's file systems may take, all together."""
    runtime = manifest.runtime
    return TMP_MIB + runtime.scratch_mib * (2 if runtime.lifecycle == "scoped" else 1)


def _not_root() -> tuple[str, ...]:
    """Where root runs the service, nobody starts the sandbox. By a command: uvloop cannot change a child's user."""
    if os.geteuid() != 0:
        return ()
    return ("/usr/bin/setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


def _limits(manifest: Manifest) -> tuple[str, ...]:
    """Set inside the user namespace, so that the number of tasks counts this sandbox only."""
    runtime = manifest.runtime
    return (
        "/usr/bin/prlimit",
        f"--nproc={TASKS_MAX}",
        f"--data={runtime.memory_mib * MIB}",
        f"--as={ADDRESS_SPACE_MAX_BYTES}",
        f"--fsize={runtime.scratch_mib * MIB}",
        f"--nofile={OPEN_FILES_MAX}",
        "--core=0",
        "--memlock=0",
        "--msgqueue=0",
        "--",
    )


def _filesystem(manifest: Manifest, plugin_dir: Path, inbox: Path) -> list[str]:
    runtime = manifest.runtime
    scratch = str(runtime.scratch_mib * MIB)
    return [
        *("--ro-bind", "/usr", "/usr"),
        *itertools.chain.from_iterable(_top_level(name) for name in ("bin", "lib", "lib32", "lib64", "libx32")),
        *(("--ro-bind", sys.prefix, "/venv") if sys.prefix != sys.base_prefix else ()),
        *("--ro-bind", str(SDK_DIR), "/app/malbox"),
        *("--ro-bind", str(plugin_dir), "/plugin"),
        *("--ro-bind", str(inbox), "/input"),
        *("--dir", "/dev", "--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"),
        *("--size", str(TMP_MIB * MIB), "--tmpfs", "/tmp"),  # noqa: S108 - the sandbox's own
        *("--size", scratch, "--tmpfs", "/scratch"),
        *(("--size", scratch, "--tmpfs", KEPT) if runtime.lifecycle == "scoped" else ()),
        *("--remount-ro", "/", "--chdir", "/scratch"),
    ]


def _top_level(name: str) -> tuple[str, ...]:
    """Where /lib and its like are links into /usr they are made again; where they are directories they are bound."""
    path = Path("/") / name
    if path.is_symlink():
        return ("--symlink", os.readlink(path), str(path))  # noqa: PTH115 - the text of the link, not its target
    return ("--ro-bind", str(path), str(path)) if path.is_dir() else ()


def _interpreter() -> tuple[str, ...]:
    python = "/venv/bin/python" if sys.prefix != sys.base_prefix else sys.executable
    return (python, "-I", "-B", "-c")
