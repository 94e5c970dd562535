"""What libvirt starts for a machine meets the machine's fence, with a real daemon and a real emulator."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from deploy.local import libvirt as daemon
from deploy.local import processes
from deploy.local.state import State, ids_of
from services.machines.adapters import fenced_emulator, libvirt_domains, qemu_processes
from services.machines.adapters.host_fence import HostFence
from services.machines.adapters.machine_files import DISK, MachineFiles
from services.machines.domain.fence import Claim, Fence
from tests.integration import hypervisor_harness as harness

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FIRST, SECOND = Claim(7, 1), Claim(7, 2)
DOMAIN = """
<domain type='qemu'><name>malbox-fenced</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>{emulator}</emulator><disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='{disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>
"""


@pytest.fixture(name="state")
def state_fixture() -> Iterator[State]:
    """The daemon runs."""
    with harness.directory() as root:
        state = harness.prepare(root)
        daemon.start(state)
        try:
            yield state
        finally:
            daemon.stop(state)


@pytest.fixture(name="machine")
def machine_fixture(state: State) -> Path:
    """The files of a machine at epoch 3, with an incarnation that is the first claim's."""
    files = MachineFiles(state.machines, "fenced")
    directory, life = files.directory, files.life(3, FIRST)
    life.mkdir(parents=True)
    (life / DISK).write_bytes(bytes(1 << 20))
    HostFence(directory).advance(3, FIRST)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, *ids_of(state.users.machines))
    return directory


def disk_of(machine: Path) -> Path:
    """The incarnation's."""
    return MachineFiles(machine.parent, machine.name).life(3, FIRST) / DISK


def started(state: State, machine: Path) -> None:
    """The domain was started. Raises libvirtError."""
    connection = libvirt.open(daemon.uri(state))
    try:
        xml = DOMAIN.format(emulator=harness.emulator(state), disk=disk_of(machine))
        connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
    finally:
        connection.close()


def _forgotten(state: State) -> None:
    connection = libvirt.open(daemon.uri(state))
    try:
        libvirt_domains.gone(connection, "fenced")
    finally:
        connection.close()


@pytest.mark.promise("P2", "P25")
@pytest.mark.parametrize(
    ("later", "said"),
    [
        (Fence(4), r"epoch 3 is over: .*fenced is at epoch 4"),
        (Fence(3, SECOND), r"claim 7\.1 of epoch 3 is over: .*fenced is at 7\.2"),
    ],
    ids=["by an owner", "by a worker"],
)
def test_an_order_that_comes_after_its_giver_was_overtaken_starts_nothing(
    state: State, machine: Path, later: Fence, said: str
) -> None:
    """Whoever gave it to libvirt and when: the fence is met by the process that would be the emulator.

    The control: before the fence rose the same order started one, which is QEMU and nothing else.
    """
    started(state, machine)
    (running,) = qemu_processes.of_machine(machine)
    assert qemu_processes.arguments(running)[0] == fenced_emulator.EMULATOR
    qemu_processes.end_all(machine, timeout_s=10)
    _forgotten(state)
    HostFence(machine).advance(*later)
    with pytest.raises(libvirt.libvirtError, match=said):
        started(state, machine)
    assert qemu_processes.of_machine(machine) == []


@pytest.mark.promise("P2")
def test_one_that_has_passed_the_fence_is_seen_by_whoever_ends_the_machine(state: State, machine: Path) -> None:
    """Even before it is the emulator: the next owner raises the fence and then ends what there is."""
    (machine / "fence").unlink()
    os.mkfifo(machine / "fence")  # it waits there, as long as a test needs to look
    argv = [str(harness.emulator(state)), "-drive", f"file={disk_of(machine)},format=raw"]
    waiting = subprocess.Popen(argv)
    identity = processes.Identity.of(waiting.pid)
    assert identity is not None
    while not qemu_processes.of_machine(machine):
        assert waiting.poll() is None
    assert qemu_processes.of_machine(machine) == [waiting.pid]
    assert qemu_processes.end_all(machine, timeout_s=10) == 1
    assert waiting.wait(timeout=10) == -9
