"""The laboratory of the red team: what there is to be taken or harmed, and attempts inside the sandbox and outside."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

import malbox
from malbox.sdk.manifest import load_manifest
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.ports import SandboxReport, SandboxRequest
from tests.security import attempts

MANIFEST = """\
[plugin]
name = "red_team"
version = "1.0.0"
description = "Tries everything."
kind = "host"

[runtime]
timeout_s = 20
memory_mib = 128
scratch_mib = 8

[applies]
stages = ["static"]

[config]
type = "object"
additionalProperties = true

[results.said]
kind = "json"
title = "Said"
"""
DESCRIPTORS_MAX = 1  # beside the first three the way out of the run, and nothing else
CONTROL_TIMEOUT_S = 30
NOBODY = 65534


@dataclass
class Lab:
    """What there is to be taken or harmed, and what has been."""

    root: Path
    heard: list[str] = field(default_factory=list)
    servers: list[socket.socket] = field(default_factory=list)
    ports: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.chmod(0o755)
        for name, mode in (("secret", 0o644), ("writable", 0o666), ("sample", 0o644), ("plugin.py", 0o644)):
            path = self.root / name
            path.write_text(f"{name} of {uuid4().hex}", encoding="ascii")
            path.chmod(mode)
        (self.root / "plugin.py").write_text("from .attempts import run as run\n", encoding="ascii")
        shutil.copytree(Path(attempts.__file__).parent, self.root / "attempts")
        if os.geteuid() == 0:  # the plugin's code is its user's: only the sandbox keeps it from being changed
            for name in ("plugin.py", "sample"):
                os.chown(self.root / name, NOBODY, NOBODY)
        (self.root / "plugin.toml").write_text(MANIFEST, encoding="utf-8")
        for name in ("open", "own"):
            (self.root / name).mkdir()
            (self.root / name).chmod(0o777)
        self.victim = subprocess.Popen(
            ["/usr/bin/sleep", "600"], env={"MALBOX_SECRET": "swordfish"}, **_as_nobody(), start_new_session=True
        )
        self.listen("tcp", socket.AF_INET, ("127.0.0.1", 0))
        self.listen("tcp6", socket.AF_INET6, ("::1", 0))
        self.listen("udp", socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM)
        self.listen("unix", socket.AF_UNIX, str(self.root / "socket"))
        self.listen("abstract", socket.AF_UNIX, f"\0malbox-{uuid4().hex}")
        (self.root / "socket").chmod(0o777)
        self.before = self.look()

    def listen(self, name: str, family: int, address: Any, kind: int = socket.SOCK_STREAM) -> None:
        """Whoever reaches this server is heard."""
        server = socket.socket(family, kind)
        server.bind(address)
        if kind == socket.SOCK_STREAM:
            server.listen()
        own = server.getsockname()
        own = own.decode() if isinstance(own, bytes) else own
        self.ports[name] = own.removeprefix("\0") if isinstance(own, str) else own[1]
        self.servers.append(server)
        threading.Thread(target=self._serve, args=(server, name, kind), daemon=True).start()

    def _serve(self, server: socket.socket, name: str, kind: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                if kind == socket.SOCK_DGRAM:
                    server.recvfrom(100)
                else:
                    self.servers.append(server.accept()[0])
                self.heard.append(name)

    def look(self) -> dict[str, Any]:
        """Everything that an attempt could have changed, as this host sees it."""
        code = self.root / "plugin.py"
        files = {
            name: (path.read_bytes(), path.stat().st_mode, int(path.stat().st_mtime)) if path.exists() else None
            for name in ("secret", "writable", "sample", "plugin.py")
            for path in (self.root / name,)
        }
        return {
            **files,
            "code": code.stat().st_mode,
            "made": sorted(path.name for path in (self.root / "open").iterdir()),
            "victim": self.fate(),
            "heard": sorted(set(self.heard)),
            "frames": Path(malbox.__file__).with_name("sdk").joinpath("frames.py").read_bytes(),
            "hostname": socket.gethostname(),
            "ipc": _ipc_of(self.ipc_key),
        }

    def fate(self) -> tuple[Any, ...]:
        """Whether the victim lives, at which priority, within which limits and under whose trace."""
        if self.victim.poll() is not None:
            return ("gone",)
        place = Path(f"/proc/{self.victim.pid}")
        limits = [line for line in (place / "limits").read_text(encoding="ascii").splitlines() if "open files" in line]
        return (os.getpriority(os.PRIO_PROCESS, self.victim.pid), *limits)

    @property
    def ipc_key(self) -> int:
        """A key that nobody else has."""
        return 0x4D000000 | (self.victim.pid & 0xFFFFFF)

    def targets(self, *, is_inside: bool) -> dict[str, Any]:
        """What an attempt is told."""
        return {
            "is_inside": is_inside,
            "own": "/scratch" if is_inside else str(self.root / "own"),
            "open_dir": str(self.root / "open"),
            "code": str(self.root / "plugin.py"),
            **{name: str(self.root / name) for name in ("secret", "writable", "sample")},
            "victim": self.victim.pid,
            "descriptors_max": DESCRIPTORS_MAX,
            "ipc_key": self.ipc_key,
            "queue": f"malbox-{self.victim.pid}",
            **self.ports,
        }

    def close(self) -> None:
        """Nothing of it is left."""
        for server in self.servers:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
        self.victim.kill()
        self.victim.wait()
        for kind in ("M", "Q", "S"):
            subprocess.run(["/usr/bin/ipcrm", f"-{kind}", hex(self.ipc_key)], check=False, capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)


def _as_nobody() -> dict[str, Any]:
    """The user that the sandbox has outside, where the test can become it."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def _ipc_of(key: int) -> list[str]:
    """Shared memory, queues and semaphores under the key."""
    tables = (Path(f"/proc/sysvipc/{name}").read_text(encoding="ascii") for name in ("shm", "msg", "sem"))
    return [line for table in tables for line in table.splitlines() if line.split()[0] == str(key)]


def asked(lab: Lab, name: str) -> SandboxRequest:
    """A run of the attempt, once in a lab."""
    spool = lab.root / "spool"
    spool.mkdir()
    return SandboxRequest(
        manifest=load_manifest(lab.root),
        plugin_dir=lab.root,
        sample=lab.root / "sample",
        sample_name="sample",
        spool_dir=spool,
        config={"name": name, "targets": lab.targets(is_inside=True)},
    )


async def inside(lab: Lab, name: str) -> SandboxReport:
    """The attempt was made by a plugin in the sandbox."""
    return await BubblewrapRunner().run(asked(lab, name))


def outside(lab: Lab, name: str) -> dict[str, Any]:
    """The same attempt was made without a sandbox; where it would change this host, in namespaces of its own."""
    apart = ["/usr/bin/unshare", "--mount", "--uts"] if name in attempts.NEEDS_NAMESPACE else []
    argv = [*apart, "/usr/bin/python3", "-m", "attempts", name, json.dumps(lab.targets(is_inside=False))]
    with inherited() as descriptors:
        done = subprocess.run(
            argv,
            check=True,
            capture_output=True,
            timeout=CONTROL_TIMEOUT_S,
            pass_fds=descriptors,
            cwd=lab.root,
            env={"MALBOX_SECRET": "swordfish"},
            **({} if name in attempts.NEEDS_ROOT else _as_nobody()),
        )
    said: dict[str, Any] = orjson.loads(done.stdout)
    return said


@contextlib.contextmanager
def inherited() -> Iterator[tuple[int, ...]]:
    """Descriptors that a careless start of a process would leak."""
    pipe = os.pipe()
    try:
        yield pipe
    finally:
        for descriptor in pipe:
            os.close(descriptor)
