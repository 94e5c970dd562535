"""The red team: everything that `attempts` knows, made inside the sandbox and, as the control, without it.

What an attempt says of itself counts only where it says that it got through. What the host sees is what judges: files,
a process that stands by, and servers that listen.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import uuid4

import orjson
import pytest

import malbox
from malbox.sdk.manifest import load_manifest
from services.plugins.adapters import command_line, seccomp
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
SEEN_WITHIN_S = 5.0
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


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """One for each attempt, below /tmp and open: the sandbox's processes are nobody's when root runs the test."""
    made = Lab(Path(mkdtemp(prefix="malbox-red-")))
    yield made
    made.close()


async def inside(lab: Lab, name: str) -> SandboxReport:
    """The attempt was made by a plugin in the sandbox."""
    spool = lab.root / "spool"
    spool.mkdir()
    request = SandboxRequest(
        manifest=load_manifest(lab.root),
        plugin_dir=lab.root,
        sample=lab.root / "sample",
        sample_name="sample",
        spool_dir=spool,
        config={"name": name, "targets": lab.targets(is_inside=True)},
    )
    return await BubblewrapRunner().run(request)


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


LEAVES_A_TRACE = {
    "write_a_file", "make_a_file", "change_the_sample", "truncate_the_sample", "delete_the_sample",
    "open_up_the_sample", "date_the_sample_back", "change_its_own_code", "change_the_interpreter", "kill",
    "kill_by_descriptor", "slow_down", "limit", "tcp", "tcp6", "udp", "unix", "abstract_unix", "shared_memory",
    "a_message_queue", "semaphores",
}  # fmt: skip


def test_there_are_enough_attempts() -> None:
    """At least forty, and every trace belongs to one of them."""
    assert len(attempts.ATTEMPTS) >= 40
    assert set(attempts.ATTEMPTS) >= LEAVES_A_TRACE


@pytest.mark.promise("P33")
@pytest.mark.parametrize("name", sorted(attempts.ATTEMPTS))
async def test_an_attempt_comes_to_nothing_inside_and_goes_through_outside(name: str, lab: Lab) -> None:
    """Inside nothing is had and nothing on the host changes; outside, the control, it is had and seen."""
    report = await inside(lab, name)
    assert report.outcome == "completed", (report.reason, report.log)
    said = orjson.loads(report.results[0].path.read_bytes())
    assert not said["went_through"], said
    assert lab.look() == lab.before
    if name in attempts.NEEDS_ROOT and os.geteuid() != 0:
        return  # there is no control that an ordinary user could make: what was shown is that nothing came of it
    control = await asyncio.to_thread(outside, lab, name)
    assert control["went_through"], control
    if name in LEAVES_A_TRACE:
        await seen(lab)


async def seen(lab: Lab) -> None:
    """The host sees a difference, however late a server's thread gets to it. Raises TimeoutError."""
    async with asyncio.timeout(SEEN_WITHIN_S):
        while lab.look() == lab.before:  # noqa: ASYNC110 - others change it
            await asyncio.sleep(0.02)


START_ALLOWANCE_S = 5.0  # a sandbox starts in a tenth of a second; on a host that has much else to do it takes longer


@dataclass
class Bomb:
    """Something that would take the host down, and what may be left of it: nothing."""

    body: str
    timeout_s: int = 3


BOMBS = {
    "a fork bomb": Bomb("while True:\n        try: os.fork()\n        except OSError: pass"),
    "a fork bomb of daemons": Bomb("while True:\n        try: os.fork() and os.setsid()\n        except OSError: pass"),
    "ten gigabytes": Bomb("block = bytearray(10 * 1024 ** 3)\n    block[::4096] = b'x' * len(block[::4096])"),
    "ten gigabytes by many": Bomb(
        "for _ in range(40):\n        if os.fork() == 0:\n            block = os.urandom(1) * (100 * 1024 ** 2)\n"
        "            time.sleep(60)\n    time.sleep(60)"
    ),
    "endless output": Bomb("while True: print('x' * 65536)"),
    "endless results": Bomb("for n in range(10 ** 9): context.emit_bytes(f'file/{n}', b'x' * 65536)"),
    "a full scratch": Bomb("n = 0\n    while True:\n        open(f'/scratch/{n}', 'wb').write(bytes(2 ** 20)); n += 1"),
    "a daemon": Bomb(
        "if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(600)\n        os._exit(0)"
    ),
    "deafness": Bomb("[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 10, 12, 13, 15)]\n    time.sleep(600)"),
    "a standstill of itself": Bomb("os.kill(os.getpid(), signal.SIGSTOP)"),
    "processor time": Bomb("for _ in range(8): os.fork()\n    while True: pass"),
    "threads": Bomb(
        "while True:\n        try: threading.Thread(target=time.sleep, args=(600,)).start()\n        except: pass"
    ),
}


@pytest.mark.promise("P34")
@pytest.mark.parametrize("kind", sorted(BOMBS))
async def test_a_bomb_is_gone_within_its_limit_and_five_seconds(kind: str, lab: Lab) -> None:
    """Afterwards no process of it is left; meanwhile an honest plugin runs beside it and completes."""
    bomb = BOMBS[kind]
    code = f"import os, signal, sys, threading, time\ndef run(context):\n    {bomb.body}\n"
    (lab.root / "plugin.py").write_text(code, encoding="utf-8")
    more = '\n[results.file]\nkind = "bytes"\ntitle = "Files"\nis_many = true\n'
    text = MANIFEST.replace("timeout_s = 20", f"timeout_s = {bomb.timeout_s}") + more
    (lab.root / "plugin.toml").write_text(text, encoding="utf-8")
    before = own_descendants()
    neighbour = Lab(Path(mkdtemp(prefix="malbox-red-")))
    try:
        honest = asyncio.create_task(inside(neighbour, "every_family_of_sockets"))
        began = time.monotonic()
        report = await inside(lab, kind)
        took_s = time.monotonic() - began
        assert (await honest).outcome == "completed"
    finally:
        neighbour.close()
    assert took_s < bomb.timeout_s + 5 + START_ALLOWANCE_S, report
    assert own_descendants() <= before
    assert lab.look()["victim"] == lab.before["victim"]


def own_descendants() -> set[int]:
    """Every process below this one."""
    found = {os.getpid()}
    grown = True
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int(
                (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            )
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return found - {os.getpid()}


@pytest.mark.promise("P33")
@pytest.mark.parametrize(
    ("wall", "names"),
    [
        ("the filter", {"a_key", "anonymous_file", "the_clock", "a_user_namespace", "another_personality"}),
        ("landlock", {"run_a_program_of_its_own", "signal_its_parent"}),
        ("a network of its own", {"abstract_unix"}),
        ("a root of its own", {"read_a_secret", "read_passwd", "write_a_file", "make_a_file", "unix"}),
    ],
)
async def test_a_sandbox_without_one_wall_lets_the_red_team_through(
    wall: str, names: set[str], lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wall stops something that the others do not: taken away, these attempts go through, and are noticed."""
    take_away(wall, monkeypatch, lab)
    through = set()
    for name in sorted(names):
        shutil.rmtree(lab.root / "spool", ignore_errors=True)
        report = await inside(lab, name)
        if report.outcome == "completed" and orjson.loads(report.results[0].path.read_bytes())["went_through"]:
            through.add(name)
    assert through == names


def take_away(wall: str, monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    """The sandbox is built without it."""
    if wall == "the filter":
        monkeypatch.setattr(seccomp, "REFUSED", ())
        monkeypatch.setattr(seccomp, "CLONE_NEW_MASK", 0)
        namespaces = tuple(word for word in command_line.NAMESPACES if word != "--disable-userns")
        monkeypatch.setattr(command_line, "NAMESPACES", namespaces)
        return
    unprotected = lab.root / "sdk"
    shutil.copytree(Path(malbox.__file__).parent, unprotected / "malbox", ignore=shutil.ignore_patterns("__pycache__"))
    module = unprotected / "malbox/sdk/landlock.py"
    text = module.read_text(encoding="utf-8").replace("def version() -> int:", "def version() -> int:\n    return 0\n")
    module.write_text(text, encoding="utf-8")
    monkeypatch.setattr(command_line, "SDK_DIR", unprotected / "malbox")
    if wall == "a network of its own":
        kept = tuple(word for word in command_line.NAMESPACES if word != "--unshare-net")
        monkeypatch.setattr(command_line, "NAMESPACES", kept)
    if wall == "a root of its own":
        filesystem = command_line._filesystem
        shown = ["--bind", str(lab.root), str(lab.root)]
        monkeypatch.setattr(command_line, "_filesystem", lambda *about: [*filesystem(*about), *shown])
        monkeypatch.setattr(command_line, "NAMESPACES", (*command_line.NAMESPACES, "--ro-bind", "/etc", "/etc"))
