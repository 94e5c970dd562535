"""Looks for what keeps Malbox from working, and says what to do about each finding."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploy.local import guest_group, images, libvirt, network, nginx, parts, ports, postgres, processes, rabbitmq
from deploy.local.state import DeployError, State
from deploy.local.status import status

DISK_MIN_GIB = 8
MEMORY_MIN_MIB = 2048
COMMAND_TIMEOUT_S = 15.0
BOOTSTRAP = "deploy/bootstrap.sh"
PROGRAMS: dict[str, Callable[[], Path]] = {
    "postgresql": lambda: postgres.binary("postgres"),
    "rabbitmq-server": lambda: rabbitmq.SERVER,
    "erlang port mapper": lambda: rabbitmq.PORT_MAPPER,
    "nginx": lambda: nginx.BINARY,
    "libvirt": lambda: Path("/usr/sbin/libvirtd"),
    "qemu": lambda: Path("/usr/bin/qemu-system-x86_64"),
    "qemu-img": lambda: Path("/usr/bin/qemu-img"),
    "bubblewrap": lambda: Path("/usr/bin/bwrap"),
    "mmdebstrap": lambda: Path("/usr/bin/mmdebstrap"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    level: Literal["ok", "note", "fault"]
    found: str
    remedy: str = ""


def doctor(state: State) -> list[Finding]:
    """Every check was made, running installation or not."""
    checks: tuple[Callable[[State], list[Finding]], ...] = (
        _platform,
        _programs,
        _disk,
        _memory,
        _namespaces,
        last_wall,
        _acceleration,
        networks,
        guest_limits,
        _ports,
        _image,
        _running,
    )
    return [finding for check in checks for finding in check(state)]


def _platform(_state: State) -> list[Finding]:
    release = platform.freedesktop_os_release()
    name = f"{release.get('ID', '?')} {release.get('VERSION_ID', '?')} {platform.machine()}"
    if (release.get("ID"), release.get("VERSION_ID"), platform.machine()) == ("debian", "12", "x86_64"):
        return [Finding("platform", "ok", name)]
    return [Finding("platform", "fault", name, "Malbox is built for Debian 12 on x86_64: run it there")]


def _programs(_state: State) -> list[Finding]:
    found = []
    for what, where in PROGRAMS.items():
        try:
            is_there = where().exists()
        except DeployError:
            is_there = False
        remedy = "" if is_there else f"run {BOOTSTRAP} as root: it installs what is missing"
        found.append(Finding(what, "ok" if is_there else "fault", "installed" if is_there else "missing", remedy))
    return found


def _disk(state: State) -> list[Finding]:
    place = next(path for path in (state.root, *state.root.parents) if path.exists())
    free_gib = shutil.disk_usage(place).free / 1024**3
    said = f"{free_gib:.1f} GiB free at {place}"
    if free_gib >= DISK_MIN_GIB:
        return [Finding("disk", "ok", said)]
    return [Finding("disk", "fault", said, f"make room: images, snapshots and results want {DISK_MIN_GIB} GiB")]


def _memory(_state: State) -> list[Finding]:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    said = f"{kib // 1024} MiB available"
    if kib // 1024 >= MEMORY_MIN_MIB:
        return [Finding("memory", "ok", said)]
    return [Finding("memory", "fault", said, f"free some: services and one machine want {MEMORY_MIN_MIB} MiB")]


def _namespaces(state: State) -> list[Finding]:
    """Whether the user that runs plugins may make the namespaces of their sandbox: by making them."""
    argv = ["/usr/bin/bwrap", "--unshare-all", "--ro-bind", "/", "/", "/bin/true"]
    try:
        postgres.run_as(state.users.services, argv, Path("/"), COMMAND_TIMEOUT_S)
    except (DeployError, KeyError) as error:
        remedy = "allow unprivileged user namespaces: sysctl kernel.unprivileged_userns_clone=1"
        return [Finding("plugin sandbox", "fault", str(error), remedy)]
    return [Finding("plugin sandbox", "ok", f"namespaces can be made by {state.users.services}")]


def last_wall(state: State) -> list[Finding]:
    """Whether the kernel has Landlock, and all of it that the sandbox of plugins asks for; without it plugins run."""
    try:
        known, wanted = landlock(state)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return [Finding("plugin landlock", "fault", f"the SDK cannot be asked: {error}", f"run {BOOTSTRAP}")]
    remedy = "boot a kernel with Landlock, and with landlock in lsm= of its command line"
    if known == 0:
        return [Finding("plugin landlock", "note", "the kernel has none: plugins run without this wall", remedy)]
    if known < wanted:
        found = f"version {known} of {wanted}: plugins run without what later ones hold back"
        return [Finding("plugin landlock", "note", found, "boot a newer kernel")]
    return [Finding("plugin landlock", "ok", f"version {known}")]


def landlock(state: State) -> tuple[int, int]:
    """The version that the kernel has, 0 where it has none, and the one that the sandbox asks for. The SDK knows."""
    asked = subprocess.run(
        [str(state.python), "-c", "from malbox.sdk import landlock; print(landlock.version(), landlock.SCOPES_SINCE)"],
        cwd=state.app,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=True,
    )
    known, wanted = asked.stdout.split()
    return int(known), int(wanted)


def _acceleration(state: State) -> list[Finding]:
    """What the machines service found by booting; a device file alone proves nothing."""
    if not Path("/dev/kvm").exists():
        return [Finding("acceleration", "note", "no /dev/kvm: guests are emulated, ten times slower", _EMULATED)]
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return [
            Finding("acceleration", "note", "/dev/kvm is closed to this user", f"add {state.users.machines} to kvm")
        ]
    return [Finding("acceleration", "note", "/dev/kvm is there; whether a guest boots on it is tried, then remembered")]


def networks(_state: State) -> list[Finding]:
    """Whether guests can be given a network: only root can make one, and only with the right programs."""
    if not network.is_possible():
        remedy = "for the routes simulated and internet, install and start Malbox as root"
        return [Finding("guest networks", "note", "not root's: guests have the route none", remedy)]
    missing = [str(path) for path in (*network.PROGRAMS, network.TUN) if not path.exists()]
    if missing:
        remedy = f"run {BOOTSTRAP} as root; for {network.TUN}: modprobe tun"
        return [Finding("guest networks", "fault", f"missing: {', '.join(missing)}", remedy)]
    return [Finding("guest networks", "ok", "can be made")]


def guest_limits(state: State) -> list[Finding]:
    """Whether what guests use up of the host is limited: by the group that they run in, or that could be made."""
    group, daemon = guest_group.remembered(state), processes.started(state, libvirt.NAME)
    remedy = "start Malbox as root, on a host that gives it control groups for memory, pids and cpu"
    if daemon is None:
        missing = sorted(set(guest_group.CONTROLLERS) - set(guest_group.hierarchies()))
        if missing:
            return [Finding("guest limits", "note", f"no control group for {', '.join(missing)}", remedy)]
        return [Finding("guest limits", "note", "nothing runs; there are control groups", "run `malbox up`")]
    if group is None or not group.holds(daemon.pid):
        return [Finding("guest limits", "note", "guests are in no control group: they can use up this host", remedy)]
    limited, unlimited = guest_group.said(group)
    if unlimited:
        return [Finding("guest limits", "note", f"{limited}; but none on {unlimited}", remedy)]
    return [Finding("guest limits", "ok", limited)]


_EMULATED = "enable hardware virtualisation, also for this host itself if it is virtual"


def _ports(state: State) -> list[Finding]:
    chosen = ports.load(state)
    if chosen is None:
        return [Finding("ports", "note", "not chosen yet", "run `malbox up`")]
    foreign = [name for name in ports.NAMES if name not in parts.ports_in_use(state)]
    taken = [
        f"{chosen[name]} ({name}) by {ports.holder_of(chosen[name])}"
        for name in foreign
        if not ports.is_free(chosen[name])
    ]
    if taken:
        return [Finding("ports", "fault", f"taken: {'; '.join(taken)}", "`malbox up` chooses others by itself")]
    return [Finding("ports", "ok", f"{chosen['gateway']} for the gateway")]


def _image(state: State) -> list[Finding]:
    if images.is_built(state):
        return [Finding("guest image", "ok", images.DEFAULT_IMAGE)]
    return [Finding("guest image", "note", "not built yet", "`malbox up` builds it (one to two minutes)")]


def _running(state: State) -> list[Finding]:
    try:
        found = status(state)
    except DeployError as error:
        return [Finding("processes", "note", str(error), "run `malbox up`")]
    if not found.is_running:
        return [Finding("processes", "note", "nothing runs", "run `malbox up`")]
    return [
        Finding(part.name, "ok", f"process {part.pid}, {part.detail}")
        if part.is_ready
        else Finding(part.name, "fault", part.detail, f"look into {state.log / part.name}.log, or run `malbox up`")
        for part in found.parts
    ]
