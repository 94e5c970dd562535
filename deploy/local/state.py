"""One installation on one machine: its state directory, who runs what, and where everything lies.

Only the standard library is used here: the bootstrap asks this module for paths before the venv exists.
"""

import getpass
import grp
import hashlib
import os
import pwd
import stat
from dataclasses import dataclass, field
from pathlib import Path

LAYOUT = "1"
LINK_NAME = ".malbox"
STATE_VARIABLE = "MALBOX_STATE"
SYSTEM_STATES = Path("/var/lib/malbox")
# A socket's path has 107 bytes at most, and libvirt makes one of up to 80 for each machine inside the state directory:
# /libvirt/config/libvirt/qemu/lib/domain-<number>-<20 characters of its name>/monitor.sock
PATH_MAX_CHARS = 27
SERVICES = ("intake", "scheduler", "machines", "plugins", "results")

SERVICE_USER = "malbox"
MACHINE_USER = "malbox-vm"
NETWORK_USER = "malbox-net"


class DeployError(Exception):
    """the deployment cannot go on; the message says what to do"""


@dataclass(frozen=True)
class Users:
    """Who runs what. Without root everything is run by the caller."""

    services: str
    machines: str
    postgres: str
    rabbitmq: str
    network: str = NETWORK_USER

    @classmethod
    def current(cls) -> "Users":
        """The system users when run by root, else the caller."""
        if os.geteuid() == 0:
            return cls(SERVICE_USER, MACHINE_USER, "postgres", "rabbitmq")
        me = getpass.getuser()
        return cls(me, me, me, me)

    def of_service(self, service: str) -> str:
        """The user that runs a service: the one with the hypervisor runs as the hypervisor's user."""
        return self.machines if service == "machines" else self.services


@dataclass(frozen=True)
class State:
    """The state directory and the names inside it."""

    root: Path
    users: Users = field(default_factory=Users.current)

    @property
    def venv(self) -> Path:
        """The interpreter and the locked dependencies."""
        return self.root / "venv"

    @property
    def python(self) -> Path:
        """The interpreter that runs everything."""
        return self.venv / "bin" / "python"

    @property
    def app(self) -> Path:
        """The copy of the source that the processes run."""
        return self.root / "app"

    @property
    def etc(self) -> Path:
        """Settings."""
        return self.root / "etc"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def blobs(self) -> Path:
        """The object store."""
        return self.root / "blobs"

    @property
    def images(self) -> Path:
        """Built guest images."""
        return self.root / "images"

    @property
    def machines(self) -> Path:
        """Overlays, snapshots and the host fence."""
        return self.root / "machines"

    @property
    def scratch(self) -> Path:
        """Temporary files of services."""
        return self.root / "scratch"

    @property
    def plugins(self) -> Path:
        """The operator's own plugins: each folder in it is one."""
        return self.root / "plugins"

    @property
    def log(self) -> Path:
        """One file per process."""
        return self.root / "log"

    @property
    def run(self) -> Path:
        """Who is running."""
        return self.root / "run"

    @property
    def postgres(self) -> Path:
        """The private PostgreSQL."""
        return self.root / "postgres"

    @property
    def rabbitmq(self) -> Path:
        """The private RabbitMQ."""
        return self.root / "rabbitmq"

    @property
    def nginx(self) -> Path:
        """The private nginx."""
        return self.root / "nginx"

    @property
    def libvirt(self) -> Path:
        """The private libvirt daemon."""
        return self.root / "libvirt"

    @property
    def network(self) -> Path:
        """The network helper's own: sockets, fences, packets being recorded."""
        return self.root / "network"

    @property
    def admin_token(self) -> Path:
        """The file with the administrator's token."""
        return self.root / "admin-token"

    def settings_file(self, service: str) -> Path:
        """The settings of one service."""
        return self.etc / f"{service}.toml"

    def prepare(self) -> None:
        """Every directory exists with its owner and mode. Raises DeployError when another layout is found."""
        self._check_layout()
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        users = self.users
        for path, user, mode in (
            (self.etc, None, 0o711),
            (self.pki, None, 0o711),
            (self.run, None, 0o711),
            (self.log, None, 0o711),
            (self.blobs, users.services, 0o750),
            (self.images, None, 0o755),
            (self.plugins, None, 0o755),
            (self.scratch, None, 0o711),
            (self.machines, users.machines, 0o700),
            (self.libvirt, users.machines, 0o700),
            (self.postgres, users.postgres, 0o700),
            (self.rabbitmq, users.rabbitmq, 0o700),
            (self.nginx, users.services, 0o700),
            (self.network, None, 0o711),
        ):
            own_directory(path, user, mode)
        for service in SERVICES:
            own_directory(self.scratch / service, users.of_service(service), 0o700)
        (self.root / "layout").write_text(LAYOUT + "\n", encoding="utf-8")

    def _check_layout(self) -> None:
        marker = self.root / "layout"
        try:
            found = marker.read_text(encoding="utf-8").strip()
        except OSError:
            return
        if found != LAYOUT:
            raise DeployError(
                f"{self.root} was made by another release (layout {found}, this one writes {LAYOUT}). "
                f"Stop it with the release that made it, then move the directory away and run `make up` again."
            )


def own_directory(path: Path, user: str | None, mode: int) -> None:
    """`path` is a directory of `user` (None: of the caller) with `mode`."""
    path.mkdir(exist_ok=True)
    found = path.stat()
    if user is not None and os.geteuid() == 0:
        wanted = pwd.getpwnam(user)
        if (found.st_uid, found.st_gid) != (wanted.pw_uid, wanted.pw_gid):
            os.chown(path, wanted.pw_uid, wanted.pw_gid)
    if stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)


def write_private(path: Path, content: str | bytes, user: str | None = None, mode: int = 0o600) -> bool:
    """`path` holds `content`, readable by `user` (None: the caller) only. Returns whether it was changed."""
    data = content.encode() if isinstance(content, str) else content
    uid, gid = ids_of(user)
    if _holds(path, data, uid, mode):
        return False
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        target.write(data)
        os.fchmod(descriptor, mode)
        if os.geteuid() == 0:
            os.fchown(descriptor, uid, gid)
        os.fsync(descriptor)
    scratch.replace(path)
    return True


def group_ids_of(user: str) -> list[int]:
    """The supplementary groups of a user, such as kvm."""
    return [group.gr_gid for group in grp.getgrall() if user in group.gr_mem]


def locate(checkout: Path) -> State:
    """The state directory of a checkout: the one that MALBOX_STATE names, or `.malbox` and where it leads."""
    named = os.environ.get(STATE_VARIABLE)
    if named:
        return State(Path(named).absolute())
    return State(place(checkout.absolute()))


def place(checkout: Path) -> Path:
    """Where the state of `checkout` really lies. Unprivileged users must be able to get there, and sockets to fit."""
    link = checkout / LINK_NAME
    if os.geteuid() != 0:
        return link.resolve()
    if link.is_dir() and not link.is_symlink():
        return link
    if checkout.is_relative_to(link.resolve()):  # shown to others inside its own state directory: deploy/python.sh
        return link.resolve()
    if len(str(link)) <= PATH_MAX_CHARS and is_open_to_all(checkout):
        return link
    return SYSTEM_STATES / hashlib.sha256(os.fsencode(checkout)).hexdigest()[:8]


def is_open_to_all(directory: Path) -> bool:
    """Whether every user may walk down to `directory`."""
    walk = (directory, *directory.parents)
    return all(step.stat().st_mode & stat.S_IXOTH for step in walk)


def ids_of(user: str | None) -> tuple[int, int]:
    """Number and group of a user (None: of the caller)."""
    if user is None:
        return os.geteuid(), os.getegid()
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def _holds(path: Path, data: bytes, uid: int, mode: int) -> bool:
    try:
        found = path.stat()
        same = stat.S_IMODE(found.st_mode) == mode and (os.geteuid() != 0 or found.st_uid == uid)
        return same and path.read_bytes() == data
    except OSError:
        return False
