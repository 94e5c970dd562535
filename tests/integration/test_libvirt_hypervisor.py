"""Real machines: a real image, the real agent, a private libvirt daemon, QEMU."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from contracts.machines import GuestEndpoint, LeaseRef
from deploy.local import libvirt as daemon
from deploy.local import pki
from services.machines.adapters import canary, qemu_processes
from services.machines.adapters.hardening import confinement, faults_of_domain, faults_of_process
from services.machines.adapters.libvirt import LibvirtHypervisor
from services.machines.adapters.machine_files import DISK, MEMORY
from services.machines.domain.fence import Claim
from services.machines.errors import (
    DigestMismatch,
    GuestMute,
    GuestUnreachable,
    HypervisorRefused,
    HypervisorUnavailable,
    StaleClaim,
    StaleEpoch,
)
from services.machines.ports import Incarnation
from services.plugins.adapters.guest_agent import GrpcGuestConnector, guest_session
from services.plugins.ports_guest import ProcessExited
from tests.integration.hypervisor_harness import SPEC, Laboratory, as_deployer, as_machine_user, laboratory
from tests.integration.skipped_reverts import KeepsOverlay, SkipsRevert
from tests.prove.bytes import flipped
from tests.prove.daemon import kill

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

# Ends with 7 when an earlier run left its mark, with 3 when this run's mark stays: the control of the first answer.
CANARY = """\
test -e /home/sample/canary && exit 7
test -e /var/tmp/canary && exit 7
echo mark > /home/sample/canary && echo mark > /var/tmp/canary && sync
test -e /home/sample/canary && test -e /var/tmp/canary && exit 3
"""


@pytest.fixture(scope="module", name="lab")
def lab_fixture() -> Iterator[Laboratory]:
    """One host with one provisioned machine."""
    with laboratory() as made:
        yield made


@pytest.fixture(name="hypervisor")
async def hypervisor_fixture(lab: Laboratory) -> AsyncIterator[LibvirtHypervisor]:
    """The adapter, acting as the machines' user; the machine is gone afterwards."""
    with as_machine_user():
        hypervisor = lab.hypervisor()
        try:
            yield hypervisor
            await hypervisor.destroy(SPEC.machine_id, epoch=lab.next_epoch())
        finally:
            await hypervisor.close()


async def run_in_guest(lab: Laboratory, incarnation: Incarnation, epoch: int, folder: Path, script: str) -> int | None:
    """The exit status of a script that ran as a sample does, in a lease of its own."""
    lease_id = f"lea_{epoch:032x}"
    enrolment = await lab.enroller.enrol(
        incarnation.address,
        lab.authority,
        SPEC.machine_id,
        lease_id=lease_id,
        epoch=epoch,
        lifetime_s=300,
        timeout_s=30,
    )
    endpoint = GuestEndpoint(
        scheme="tcp",
        host=incarnation.address.host,
        port=incarnation.address.port,
        server_identity=enrolment.server_identity,
        ca_pem=lab.authority.ca_cert_pem,
    )
    lease = LeaseRef(lease_id=lease_id, machine_id=SPEC.machine_id, epoch=epoch, term=0)
    connector = GrpcGuestConnector(
        client_cert_file=pki.cert_file(lab.state, "plugins"), client_key_file=pki.key_file(lab.state, "plugins")
    )
    source = folder / f"script-{epoch}"
    source.write_text(script, encoding="utf-8")
    async with guest_session(connector, endpoint, lease, timeout_s=30) as session:
        path = await session.put(source, "script.sh")
        await session.launch(("/bin/sh", path))
        async for event in session.watch():
            if isinstance(event, ProcessExited) and event.is_first:
                return event.exit_code
    return None


@pytest.fixture(name="folder")
def folder_fixture(lab: Laboratory) -> Path:
    """A directory that the machines' user may write."""
    folder = lab.state.machines / ".scripts"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    return folder


@pytest.mark.promise("P8", "P24")
async def test_a_file_written_in_one_incarnation_is_absent_in_the_next(
    lab: Laboratory, hypervisor: LibvirtHypervisor, folder: Path
) -> None:
    """Each incarnation starts from the warm snapshot, whatever the one before wrote to its disk."""
    for _ in range(2):
        epoch = lab.next_epoch()
        incarnation = await hypervisor.restore(SPEC, epoch=epoch)
        assert await run_in_guest(lab, incarnation, epoch, folder, CANARY) == 3
        await hypervisor.destroy(SPEC.machine_id, epoch=epoch)


@pytest.mark.promise("B3")
async def test_an_interrupted_build_is_thrown_away_by_the_next(lab: Laboratory, hypervisor: LibvirtHypervisor) -> None:
    """The laboratory's first build was interrupted while the guest ran: nothing of it is left beside the snapshot."""
    assert lab.provisioned is not None
    await hypervisor.destroy(SPEC.machine_id, epoch=lab.next_epoch())
    kept = {path.name for path in lab.directory.iterdir()}
    assert kept == {"fence", "fence.lock", "lock", "warm"}
    assert qemu_processes.of_machine(lab.directory) == []
    assert set(lab.provisioned.evidence) >= {"image_disk_sha256", "memory_sha256", "warm_disk_sha256"}


async def test_a_paused_machine_does_not_answer_and_a_resumed_one_does(
    lab: Laboratory, hypervisor: LibvirtHypervisor
) -> None:
    """Pausing stops the guest itself, not only a word in a listing; both calls may be repeated."""
    epoch = lab.next_epoch()
    incarnation = await hypervisor.restore(SPEC, epoch=epoch)
    await lab.enroller.attest(incarnation.address, lab.authority, SPEC.machine_id, timeout_s=30)
    for _ in range(2):
        await hypervisor.pause(SPEC.machine_id, epoch=epoch)
    assert [domain.state for domain in await hypervisor.observe()] == ["paused"]
    with pytest.raises(GuestUnreachable):
        await lab.enroller.attest(incarnation.address, lab.authority, SPEC.machine_id, timeout_s=2)
    for _ in range(2):
        await hypervisor.resume(SPEC.machine_id, epoch=epoch, grant="one")
    seen = (await hypervisor.observe())[0]
    assert (seen.machine_id, seen.epoch, seen.state) == (SPEC.machine_id, epoch, "running")
    assert await hypervisor.address(SPEC.machine_id, epoch=epoch) == incarnation.address
    await lab.enroller.attest(incarnation.address, lab.authority, SPEC.machine_id, timeout_s=30)


@pytest.mark.promise("G4", "P2")
async def test_a_stale_owner_has_no_effect_on_the_host(lab: Laboratory, hypervisor: LibvirtHypervisor) -> None:
    """Every call of an earlier owner is refused, and the incarnation of the current one runs on."""
    stale, epoch = lab.next_epoch(), lab.next_epoch()
    await hypervisor.restore(SPEC, epoch=epoch)
    before = qemu_processes.of_machine(lab.directory)
    calls = (
        lambda: hypervisor.destroy(SPEC.machine_id, epoch=stale),
        lambda: hypervisor.pause(SPEC.machine_id, epoch=stale),
        lambda: hypervisor.resume(SPEC.machine_id, epoch=stale, grant="one"),
        lambda: hypervisor.restore(SPEC, epoch=stale),
        lambda: hypervisor.provision(SPEC, epoch=stale, enrolment=lab.authority.enrolment, agent_waits=lab.agent_waits),
    )
    for call in calls:
        with pytest.raises(StaleEpoch):
            await call()
    assert [domain.epoch for domain in await hypervisor.observe()] == [epoch]
    assert qemu_processes.of_machine(lab.directory) == before
    assert len(before) == 1


@pytest.mark.promise("P2")
async def test_of_one_epochs_workers_the_host_obeys_the_latest(lab: Laboratory, hypervisor: LibvirtHypervisor) -> None:
    """Every call of one that stood still meanwhile is refused; its successor's incarnation stands, and is let run.

    Nothing of the one that it restored itself is left.
    """
    epoch, first, second = lab.next_epoch(), Claim(7, 1), Claim(7, 2)
    await hypervisor.restore(SPEC, epoch=epoch, claim=first)
    (stopped,) = qemu_processes.of_machine(lab.directory)
    incarnation = await hypervisor.restore(SPEC, epoch=epoch, claim=second)
    (running,) = qemu_processes.of_machine(lab.directory)
    assert running != stopped
    of: dict[str, Any] = {"epoch": epoch, "claim": first}
    build: dict[str, Any] = {"enrolment": lab.authority.enrolment, "agent_waits": lab.agent_waits}
    for call in (
        lambda: hypervisor.destroy(SPEC.machine_id, **of),
        lambda: hypervisor.halt(SPEC.machine_id, **of),
        lambda: hypervisor.pause(SPEC.machine_id, **of),
        lambda: hypervisor.resume(SPEC.machine_id, grant="one", **of),
        lambda: hypervisor.address(SPEC.machine_id, **of),
        lambda: hypervisor.restore(SPEC, **of),
        lambda: hypervisor.provision(SPEC, **build, **of),
    ):
        with pytest.raises(StaleClaim, match=rf"claim 7\.1 of epoch {epoch} is over"):
            await call()
    assert qemu_processes.of_machine(lab.directory) == [running]
    assert await hypervisor.address(SPEC.machine_id, epoch=epoch, claim=second) == incarnation.address
    await hypervisor.pause(SPEC.machine_id, epoch=epoch, claim=second)
    assert await hypervisor.departures(SPEC.machine_id, epoch=epoch) == []
    await hypervisor.resume(SPEC.machine_id, epoch=lab.next_epoch(), grant="one", claim=Claim(8, 1))
    assert [path.name for path in lab.directory.glob("life-*")] == [f"life-{epoch}-7-2"]


@pytest.mark.promise("P3")
async def test_a_boot_that_stays_mute_is_given_up_at_its_deadline(lab: Laboratory) -> None:
    """Not as a fault that another attempt may cure; what was booted can be destroyed."""
    host = LibvirtHypervisor(lab.settings.model_copy(update={"boot_timeout_s": 1.0}))
    spec = SPEC.model_copy(update={"machine_id": "mute"})

    async def never(_address: object) -> None:
        await asyncio.Event().wait()

    with as_machine_user():
        with pytest.raises(GuestMute, match="no agent within 1 s of booting"):
            await host.provision(spec, epoch=1, enrolment=lab.authority.enrolment, agent_waits=never)
        assert "mute" in [domain.machine_id for domain in await host.observe()]
        await host.destroy("mute", epoch=2)
        await host.close()


@pytest.mark.promise("P25")
async def test_the_live_process_matches_the_hardened_profile(lab: Laboratory, hypervisor: LibvirtHypervisor) -> None:
    """Judged from the kernel and from libvirt: not root, no privileges to gain, filtered, no device too many."""
    await hypervisor.restore(SPEC, epoch=lab.next_epoch())
    (pid,) = qemu_processes.of_machine(lab.directory)
    words = qemu_processes.arguments(pid)
    held = confinement(pid)
    assert faults_of_process(held, words) == []
    assert held.uid == os.geteuid()
    assert words[words.index("-sandbox") + 1].startswith("on,")
    connection = libvirt.open(daemon.uri(lab.state))
    try:
        assert faults_of_domain(connection.lookupByName(f"malbox-{SPEC.machine_id}").XMLDesc(0)) == []
    finally:
        connection.close()


async def test_the_emulator_holds_no_enrolment_secret_after_a_restore(
    lab: Laboratory, hypervisor: LibvirtHypervisor
) -> None:
    """The bundle that a restored guest can read is blank; the agent keeps what it read at its first start."""
    epoch = lab.next_epoch()
    await hypervisor.restore(SPEC, epoch=epoch)
    bundle = (lab.directory / f"life-{epoch}" / "enrolment").read_bytes()
    assert len(bundle) == len(lab.authority.enrolment)
    assert set(bundle) == {0}


@pytest.mark.promise("P6", "G2")
async def test_a_killed_emulator_is_seen_and_replaced(lab: Laboratory, hypervisor: LibvirtHypervisor) -> None:
    """A process that died is no domain any more, and the next incarnation starts."""
    await hypervisor.restore(SPEC, epoch=lab.next_epoch())
    (pid,) = qemu_processes.of_machine(lab.directory)
    os.kill(pid, signal.SIGKILL)
    await hypervisor.destroy(SPEC.machine_id, epoch=lab.next_epoch())
    assert await hypervisor.observe() == []
    incarnation = await hypervisor.restore(SPEC, epoch=lab.next_epoch())
    assert incarnation.evidence["process"] != str(pid)


@pytest.mark.promise("P6")
async def test_the_daemon_tells_of_a_guest_that_ended(lab: Laboratory, hypervisor: LibvirtHypervisor) -> None:
    """Nobody has to ask for it; and a listing says where the agent of a guest that runs is reached."""
    incarnation = await hypervisor.restore(SPEC, epoch=lab.next_epoch())
    assert [domain.address for domain in await hypervisor.observe()] == [incarnation.address]
    telling = asyncio.create_task(hypervisor.changed())
    await asyncio.sleep(0)
    (pid,) = qemu_processes.of_machine(lab.directory)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        await telling
    async with asyncio.timeout(60):
        while await hypervisor.observe():
            await hypervisor.changed()


@pytest.mark.promise("P10")
async def test_a_halted_machine_does_not_run_and_its_files_stay_to_be_looked_at(
    lab: Laboratory, hypervisor: LibvirtHypervisor
) -> None:
    """Whatever holds its processors; the host remembers for which epoch it acted."""
    epoch = lab.next_epoch()
    await hypervisor.restore(SPEC, epoch=epoch)
    halted = lab.next_epoch()
    await hypervisor.halt(SPEC.machine_id, epoch=halted)
    assert qemu_processes.of_machine(lab.directory) == []
    assert await hypervisor.observe() == []
    assert (lab.directory / f"life-{epoch}" / DISK).exists()
    assert (await hypervisor.fences())[SPEC.machine_id] == halted


@pytest.mark.promise("P5", "P10")
async def test_a_machine_is_stopped_even_when_the_daemon_that_started_it_was_killed(
    lab: Laboratory, hypervisor: LibvirtHypervisor
) -> None:
    """The emulator outlives its daemon; until a new one answers nothing is claimed, and then it is stopped."""
    epoch = lab.next_epoch()
    await hypervisor.restore(SPEC, epoch=epoch)
    (pid,) = qemu_processes.of_machine(lab.directory)
    with as_deployer():
        kill(lab.state)
    with pytest.raises(HypervisorUnavailable):
        await hypervisor.observe()
    with pytest.raises(HypervisorUnavailable):
        await hypervisor.destroy(SPEC.machine_id, epoch=epoch)
    with as_deployer():
        daemon.start(lab.state)
    await hypervisor.destroy(SPEC.machine_id, epoch=epoch)
    assert pid not in qemu_processes.of_machine(lab.directory)
    assert await hypervisor.observe() == []


@pytest.mark.promise("P7")
async def test_a_memory_image_with_one_byte_changed_is_not_restored(
    lab: Laboratory, hypervisor: LibvirtHypervisor
) -> None:
    """It is refused while it is another one, though its times were put back, and is usable again once it is itself."""
    memory = lab.directory / "warm" / MEMORY
    with flipped(memory, memory.stat().st_size // 2):
        with pytest.raises(DigestMismatch, match=MEMORY):
            await hypervisor.restore(SPEC, epoch=lab.next_epoch())
        assert await hypervisor.observe() == []
    await hypervisor.restore(SPEC, epoch=lab.next_epoch())


@pytest.mark.promise("P8", "P7")
async def test_a_machine_that_is_not_what_was_verified_is_not_resumed(
    lab: Laboratory, hypervisor: LibvirtHypervisor
) -> None:
    """Between the last look of the reconciler and a lease there is time to change something: resuming looks again."""
    ready = lab.next_epoch()
    await hypervisor.restore(SPEC, epoch=ready)
    await hypervisor.pause(SPEC.machine_id, epoch=ready)
    assert await hypervisor.departures(SPEC.machine_id, epoch=ready) == []
    lease = lab.next_epoch()
    with flipped(lab.directory / f"life-{ready}" / DISK, 0), pytest.raises(HypervisorRefused, match="not what was"):
        await hypervisor.resume(SPEC.machine_id, epoch=lease, grant="one")
    assert [domain.state for domain in await hypervisor.observe()] == ["paused"]


@pytest.mark.promise("P4", "P8")
async def test_an_incarnation_that_ran_for_one_grant_is_let_run_for_no_other(
    lab: Laboratory, hypervisor: LibvirtHypervisor
) -> None:
    """A restored store may give the same epoch to another task: what the first one's sample touched is not for it."""
    ready = lab.next_epoch()
    await hypervisor.restore(SPEC, epoch=ready)
    await hypervisor.pause(SPEC.machine_id, epoch=ready)
    lease = lab.next_epoch()
    for _ in range(2):
        await hypervisor.resume(SPEC.machine_id, epoch=lease, grant="one")
    with pytest.raises(HypervisorRefused, match="ran before"):
        await hypervisor.resume(SPEC.machine_id, epoch=lease, grant="another")


@pytest.mark.promise("P6")
async def test_a_daemon_that_was_started_again_changes_nothing_of_what_stands_ready(
    lab: Laboratory, hypervisor: LibvirtHypervisor
) -> None:
    """The emulator goes on, the new daemon finds it, and it is what was verified."""
    ready = lab.next_epoch()
    await hypervisor.restore(SPEC, epoch=ready)
    await hypervisor.pause(SPEC.machine_id, epoch=ready)
    with as_deployer():
        kill(lab.state)
        daemon.start(lab.state)
    assert await hypervisor.departures(SPEC.machine_id, epoch=ready) == []
    await hypervisor.resume(SPEC.machine_id, epoch=lab.next_epoch(), grant="one")


async def enrolled(lab: Laboratory, hypervisor: LibvirtHypervisor) -> Incarnation:
    """An incarnation that serves a lease: it proved fresh, and its canary is planted."""
    epoch = lab.next_epoch()
    incarnation = await hypervisor.restore(SPEC, epoch=epoch)
    attested = await lab.enroller.attest(incarnation.address, lab.authority, SPEC.machine_id, timeout_s=30)
    assert attested.is_fresh
    assert attested.canaries == ()
    await lab.enroller.enrol(
        incarnation.address,
        lab.authority,
        SPEC.machine_id,
        lease_id=f"lea_{epoch:032x}",
        epoch=epoch,
        lifetime_s=300,
        timeout_s=30,
    )
    return incarnation


@pytest.mark.promise("P5", "P10")
async def test_nothing_of_an_erased_machine_is_left_but_its_fence(
    lab: Laboratory, hypervisor: LibvirtHypervisor
) -> None:
    """No process, overlay or warm snapshot, whose memory holds its enrolment key: nothing could be restored any more.

    The snapshot is put back for the tests that follow.
    """
    put_by = shutil.copytree(lab.directory / "warm", lab.directory.with_name("put-by"), copy_function=os.link)
    await hypervisor.restore(SPEC, epoch=lab.next_epoch())
    epoch = lab.next_epoch()
    for _ in range(2):
        await hypervisor.erase(SPEC.machine_id, epoch=epoch)
    try:
        assert {path.name for path in lab.directory.iterdir()} == {"fence", "fence.lock", "lock"}
        assert qemu_processes.of_machine(lab.directory) == []
        assert (await hypervisor.fences())[SPEC.machine_id] == epoch
        with pytest.raises(HypervisorRefused, match="no warm snapshot"):
            await hypervisor.restore(SPEC, epoch=lab.next_epoch())
    finally:
        put_by.rename(lab.directory / "warm")


@pytest.mark.promise("P8")
async def test_the_same_incarnation_leased_twice_is_caught(lab: Laboratory, hypervisor: LibvirtHypervisor) -> None:
    """The mutant that skips the revert: what answers there serves another lease, and proves no enrolment any more."""
    mutant = SkipsRevert(lab, await enrolled(lab, hypervisor))
    try:
        again = await mutant.restore(SPEC, epoch=lab.next_epoch())
        with pytest.raises(GuestUnreachable):
            await lab.enroller.attest(again.address, lab.authority, SPEC.machine_id, timeout_s=3)
    finally:
        await mutant.close()


@pytest.mark.promise("P8")
async def test_an_overlay_that_outlived_its_lease_is_caught(
    lab: Laboratory, hypervisor: LibvirtHypervisor, folder: Path
) -> None:
    """The mutant that keeps the disk: the guest's caches are the snapshot's and show nothing, its bytes do."""
    await enrolled(lab, hypervisor)
    (life,) = lab.directory.glob("life-*")
    assert canary.is_in(life / DISK), "the control: the canary is on the disk, and the search sees it"
    old = folder / "old-overlay"
    shutil.copyfile(life / DISK, old)
    mutant = KeepsOverlay(lab, old)
    try:
        with pytest.raises(HypervisorRefused, match="canary of an earlier lease"):
            await mutant.restore(SPEC, epoch=lab.next_epoch())
    finally:
        old.unlink()
        await mutant.close()


@pytest.mark.promise("F6")
@pytest.mark.parametrize("change", [{"disk_bus": "sata"}, {"platform": "windows"}, {"image": "missing"}])
async def test_what_an_image_cannot_be_is_refused_and_not_ignored(
    lab: Laboratory, hypervisor: LibvirtHypervisor, change: dict[str, str]
) -> None:
    """The profile's disk bus, firmware, platform and image are taken or refused; the snapshot that stands is kept."""
    spec = SPEC.model_copy(update=change)
    with pytest.raises(HypervisorRefused):
        await hypervisor.provision(
            spec, epoch=lab.next_epoch(), enrolment=lab.authority.enrolment, agent_waits=lab.agent_waits
        )
    assert (lab.directory / "warm").is_dir()
