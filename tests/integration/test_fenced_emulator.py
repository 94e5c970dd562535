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
from tests.integration import hypervisor_harness as harness

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

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
    """The files of a machine at epoch 3, with an incarnation of that epoch."""
    directory = state.machines / "fenced"
    life = directory / "life-3"
    life.mkdir(parents=True)
    (life / "disk").write_bytes(bytes(1 << 20))
    HostFence(directory).advance(3)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, *ids_of(state.users.machines))
    return directory


def started(state: State, machine: Path) -> None:
    """The domain was started. Raises libvirtError."""
    connection = libvirt.open(daemon.uri(state))
    try:
        xml = DOMAIN.format(emulator=harness.emulator(state), disk=machine / "life-3" / "disk")
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
def test_an_order_that_comes_after_its_epoch_starts_nothing(state: State, machine: Path) -> None:
    """Whoever gave it to libvirt and when: the fence is met by the process that would be the emulator.

    The control: before the fence rose the same order started one, which is QEMU and nothing else.
    """
    started(state, machine)
    (running,) = qemu_processes.of_machine(machine)
    assert qemu_processes.arguments(running)[0] == fenced_emulator.EMULATOR
    qemu_processes.end_all(machine, timeout_s=10)
    _forgotten(state)
    HostFence(machine).advance(4)
    with pytest.raises(libvirt.libvirtError, match=r"epoch 3 is over: .*fenced is at epoch 4"):
        started(state, machine)
    assert qemu_processes.of_machine(machine) == []


@pytest.mark.promise("P2")
def test_one_that_has_passed_the_fence_is_seen_by_whoever_ends_the_machine(state: State, machine: Path) -> None:
    """Even before it is the emulator: the next owner raises the fence and then ends what there is."""
    (machine / "fence").unlink()
    os.mkfifo(machine / "fence")  # it waits there, as long as a test needs to look
    argv = [str(harness.emulator(state)), "-drive", f"file={machine / 'life-3' / 'disk'},format=raw"]
    waiting = subprocess.Popen(argv)
    identity = processes.Identity.of(waiting.pid)
    assert identity is not None
    while not qemu_processes.of_machine(machine):
        assert waiting.poll() is None
    assert qemu_processes.of_machine(machine) == [waiting.pid]
    assert qemu_processes.end_all(machine, timeout_s=10) == 1
    assert waiting.wait(timeout=10) == -9


@pytest.mark.parametrize("fence", [None, "", "not a number"])
def test_a_machine_without_a_fence_that_can_be_read_is_not_started(fence: str | None, machine: Path) -> None:
    """Unknown is not allowed; what has no files of a machine is a question about the emulator, and is answered."""
    (machine / "fence").unlink()
    if fence is not None:
        (machine / "fence").write_text(fence, encoding="ascii")
    words = ["-blockdev", f'{{"driver":"file","filename":"{machine}/life-3/disk"}}']
    assert "cannot be read" in fenced_emulator.refusal(words)
    assert fenced_emulator.refusal(["-machine", "none", "-qmp", "unix:/tmp/x/monitor"]) == ""
