"""A private libvirt daemon, a real image and one provisioned machine, for tests of the hypervisor adapter.

MALBOX_TEST_STATE names a directory that is kept, so that the next run finds the image; else all is made and removed.
"""

import asyncio
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy.local import libvirt as daemon
from deploy.local import pki
from deploy.local.state import MACHINE_USER, State, Users, locate, own_directory
from guest.images import build as images
from guest.images.assemble import AgentSource
from guest.images.errors import ImageDamaged
from guest.images.manifest import read as read_manifest
from guest.images.recipe import RECIPES, recipe_hash
from services.machines.adapters import fenced_emulator
from services.machines.adapters.guest_agent import GrpcEnroller
from services.machines.adapters.libvirt import LibvirtHypervisor
from services.machines.adapters.libvirt_settings import LibvirtSettings
from services.machines.domain.spec import MachineSpec
from services.machines.ports import Authority, GuestAddress, Provisioned

KEPT_VARIABLE = "MALBOX_TEST_STATE"
SPEC = MachineSpec(machine_id="probe", host="local", profile="linux", platform="linux", image="linux", memory_mib=512)


@dataclass
class Laboratory:
    """One host: its daemon, its settings, and the epochs that tests use up."""

    state: State
    enroller: GrpcEnroller
    authority: Authority
    provisioned: Provisioned | None = None
    epoch: int = field(default=0)

    @property
    def settings(self) -> LibvirtSettings:
        """Where the daemon is, and where its machines are kept."""
        return LibvirtSettings(
            uri=daemon.uri(self.state),
            images_dir=self.state.images,
            machines_dir=self.state.machines,
            emulator=emulator(self.state),
        )

    def hypervisor(self) -> LibvirtHypervisor:
        """A connection of the test's own."""
        return LibvirtHypervisor(self.settings)

    def next_epoch(self) -> int:
        """The epoch of the next owner."""
        self.epoch += 1
        return self.epoch

    @property
    def directory(self) -> Path:
        """The machine's files."""
        return self.state.machines / SPEC.machine_id

    async def agent_waits(self, address: GuestAddress) -> None:
        """The real agent answers with its enrolment identity."""
        await self.enroller.attest(address, self.authority, SPEC.machine_id, timeout_s=150)


class Interrupted(Exception):
    """The service ended in the middle of a build."""


@contextmanager
def laboratory() -> Iterator[Laboratory]:
    """Everything stands; the machine was provisioned after an interrupted attempt."""
    with directory() as root:
        state = prepare(root)
        build_image(state)
        try:
            daemon.start(state)
            with as_machine_user():
                made = _furnish(state)
            yield made
        finally:
            daemon.stop(state)
            shutil.rmtree(state.machines, ignore_errors=True)


@contextmanager
def as_machine_user() -> Iterator[None]:
    """This process acts as the user that runs the machines service and QEMU, as that service does."""
    if os.geteuid() != 0:
        yield
        return
    entry = pwd.getpwnam(MACHINE_USER)
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def as_deployer() -> Iterator[None]:
    """Within `as_machine_user`: this process is for a moment again the one that deploys."""
    before = os.geteuid(), os.getegid()
    if os.getuid() == 0:
        os.seteuid(0)
        os.setegid(0)
    try:
        yield
    finally:
        os.setegid(before[1])
        os.seteuid(before[0])


@contextmanager
def directory() -> Iterator[Path]:
    """The state directory: the one that is kept, or one that is removed afterwards."""
    kept = os.environ.get(KEPT_VARIABLE)
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        yield Path(kept)
        return
    # Not pytest's own: the machines' user has to get in, and sockets must fit into 108 bytes.
    with tempfile.TemporaryDirectory(prefix="mbx-", dir="/var/tmp", ignore_cleanup_errors=True) as made:
        yield Path(made)


def prepare(root: Path) -> State:
    """The directory is an installation as far as the hypervisor needs one."""
    me = MACHINE_USER if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    try:
        pwd.getpwnam(me)
    except KeyError:
        pytest.fail(f"there is no user {me}: run deploy/bootstrap.sh first")
    state = State(root, Users(services=me, machines=me, postgres=me, rabbitmq=me))
    root.chmod(0o711)
    for path in (state.run, state.log, state.images, state.pki):
        own_directory(path, None, 0o755)
    own_directory(state.machines, me, 0o700)
    shutil.copyfile(fenced_emulator.__file__, emulator(state))  # the checkout may be closed to the machines' user
    emulator(state).chmod(0o755)
    pki.ensure(state)
    return state


def emulator(state: State) -> Path:
    """What libvirt starts for a machine."""
    return state.root / "fenced_emulator.py"


def build_image(state: State, tree: Path = images.SOURCE) -> None:
    """The guest image stands, its agent from that source: a copy of this checkout's own where it is of that source."""
    own = locate(images.SOURCE)
    lock = images.SOURCE / "requirements.lock"
    built = (own.images / "linux").resolve()
    if _is_of(built, tree, lock):
        shutil.copytree(built, state.images / built.name)
        (state.images / "linux").symlink_to(built.name)
        return
    uv = own.root / "bootstrap" / "bin" / "uv"
    agent = AgentSource(tree=tree, lock=lock, uv=images.find_uv(str(uv) if uv.exists() else None))
    images.build("linux", state.images / "linux", cache=own.root / "cache", agent=agent)


def _is_of(built: Path, tree: Path, lock: Path) -> bool:
    try:
        return read_manifest(built).recipe_hash == recipe_hash(RECIPES["linux"], tree, lock)
    except ImageDamaged:
        return False


def _furnish(state: State) -> Laboratory:
    enroller = GrpcEnroller(
        client_cert_file=pki.cert_file(state, "machines"),
        client_key_file=pki.key_file(state, "machines"),
        client_ca_file=pki.ca_file(state),
    )
    made = Laboratory(state, enroller, enroller.create_authority(SPEC.machine_id))
    asyncio.run(_provision(made))
    return made


async def _provision(made: Laboratory) -> None:
    async def is_interrupted(_address: GuestAddress) -> None:
        raise Interrupted

    hypervisor, enrolment = made.hypervisor(), made.authority.enrolment
    try:
        try:
            await hypervisor.provision(SPEC, epoch=made.next_epoch(), enrolment=enrolment, agent_waits=is_interrupted)
        except Interrupted:
            assert list(made.directory.glob("building-*")), "the interruption came before there was anything to leave"
        made.provisioned = await hypervisor.provision(
            SPEC, epoch=made.next_epoch(), enrolment=enrolment, agent_waits=made.agent_waits
        )
    finally:
        await hypervisor.close()
