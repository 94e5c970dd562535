"""The hypervisor port on libvirt and QEMU.

A machine is provisioned once: it boots on an overlay of its image until its agent answers, then its memory goes to a
file and the overlay becomes read-only. Every incarnation is that memory in a fresh process on a fresh overlay. Whatever
acts holds the machine's lock and its host fence; whatever an earlier, interrupted action left is removed first.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from services.machines.adapters import canary, qemu_processes, readiness
from services.machines.adapters import libvirt_domains as domains
from services.machines.adapters.acceleration import Verdict, probe
from services.machines.adapters.built_image import BuiltImage
from services.machines.adapters.domain_xml import (
    NAME_PREFIX,
    DomainPlan,
    Firmware,
    forwarded_port,
    identity,
    render,
    succeed,
)
from services.machines.adapters.hardening import confinement, faults_of_domain, faults_of_process
from services.machines.adapters.host_fence import HostFence, highest_of_all
from services.machines.adapters.kept_files import Snapshot
from services.machines.adapters.libvirt_link import LibvirtLink
from services.machines.adapters.libvirt_settings import LibvirtSettings
from services.machines.adapters.machine_files import CONSOLE, DISK, ENROLMENT, MEMORY, VARIABLES, MachineFiles
from services.machines.domain.fence import Claim
from services.machines.domain.spec import MachineSpec
from services.machines.errors import GuestMute, GuestUnreachable, HypervisorRefused
from services.machines.network.layout import socket_name
from services.machines.ports import Departure, DomainSeen, GuestAddress, Incarnation, Provisioned

ENROLMENT_MAX_BYTES = 16 * 1024
_PROCESS_END_TIMEOUT_S = 10.0  # the kernel gives a large guest back in less than two
_WATCH_S = 0.5  # a guest that ends while it boots is seen this soon
_LAST_WORDS_BYTES = 600
_WARM_DISK, _WARM_MEMORY = f"warm {DISK}", f"warm {MEMORY}"

T = TypeVar("T")


@dataclass(frozen=True)
class _Build:
    """A warm snapshot being made."""

    spec: MachineSpec
    epoch: int
    claim: Claim | None
    image: BuiltImage
    verdict: Verdict


class LibvirtHypervisor:
    """Machines of this host. Implements services.machines.ports.Hypervisor."""

    def __init__(self, settings: LibvirtSettings) -> None:
        self._settings = settings
        self._link = LibvirtLink(settings.uri)

    async def image_identity(self, spec: MachineSpec) -> str:
        """The digest of the image's manifest, which names the digest of each of its files."""
        step = partial(BuiltImage, self._settings.images_dir, spec.image)
        return (await self._link.aside(step, timeout_s=self._settings.call_timeout_s)).identity

    async def provision(
        self,
        spec: MachineSpec,
        *,
        epoch: int,
        enrolment: bytes,
        agent_waits: Callable[[GuestAddress], Awaitable[None]],
        claim: Claim | None = None,
    ) -> Provisioned:
        """A warm snapshot stands, its agent waiting."""
        if len(enrolment) > ENROLMENT_MAX_BYTES:
            raise HypervisorRefused(f"an enrolment bundle of {len(enrolment)} bytes, {ENROLMENT_MAX_BYTES} are allowed")
        image = await self._link.aside(partial(self._checked_image, spec), timeout_s=self._settings.save_timeout_s)
        verdict = await self._link.aside(partial(self._choose, spec, image), timeout_s=self._settings.call_timeout_s)
        build = _Build(spec, epoch, claim, image, verdict)
        port = await self._link.call(partial(self._boot, build, enrolment), timeout_s=self._settings.call_timeout_s)
        await self._until_waiting(build, GuestAddress(domains.LOOPBACK, port), agent_waits)
        snapshot = await self._link.call(partial(self._freeze, build), timeout_s=self._settings.save_timeout_s)
        return Provisioned(
            acceleration=verdict.accelerator,
            evidence={
                "image": image.identity,
                "image_disk_sha256": image.disk_sha256,
                "warm_disk_sha256": snapshot.files[_WARM_DISK].sha256,
                "memory_sha256": snapshot.files[_WARM_MEMORY].sha256,
                "domain_sha256": snapshot.domain_identity,
                "acceleration_reason": verdict.reason,
            },
        )

    async def _until_waiting(
        self, build: _Build, address: GuestAddress, agent_waits: Callable[[GuestAddress], Awaitable[None]]
    ) -> None:
        """The agent waits. Raises GuestMute at the deadline, GuestUnreachable as soon as the guest has ended."""
        limit_s = self._settings.boot_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._while_it_runs(build, agent_waits(address))
        except TimeoutError as error:
            said = await self._last_words(build)
            raise GuestMute(f"no agent within {limit_s:.0f} s of booting; the console ends {said}") from error

    async def _while_it_runs(self, build: _Build, answer: Awaitable[None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(build))
                await answer
                watch.cancel()
        except BaseExceptionGroup as group_of_errors:
            raise group_of_errors.exceptions[0] from None

    async def _watch(self, build: _Build) -> None:
        """Returns never. Raises GuestUnreachable once the domain is gone."""
        step = partial(domains.exists, machine_id=build.spec.machine_id)
        while await self._link.call(step, timeout_s=self._settings.call_timeout_s):  # noqa: ASYNC110 -- it asks libvirt
            await asyncio.sleep(_WATCH_S)  # what libvirt tells of itself may be lost with its connection
        raise GuestUnreachable(f"the guest ended while it booted; the console ends {await self._last_words(build)}")

    async def restore(self, spec: MachineSpec, *, epoch: int, claim: Claim | None = None) -> Incarnation:
        """A fresh process on a fresh overlay runs from the warm snapshot. Raises DigestMismatch."""
        step = partial(self._restore, spec.machine_id, epoch, claim)
        return await self._link.call(step, timeout_s=self._settings.save_timeout_s)

    async def address(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> GuestAddress:
        """Where the live domain's own definition forwards the agent's port."""

        def port(connection: Any) -> int:
            self._fence(machine_id).check(epoch, claim)
            return _port_of(machine_id, connection)

        return GuestAddress(domains.LOOPBACK, await self._link.call(port, timeout_s=self._settings.call_timeout_s))

    async def pause(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """The machine's processors stand still, and how everything stands then is recorded."""
        files = self._files(machine_id)
        await self._act(machine_id, epoch, claim, lambda connection, _: readiness.stand(connection, files))

    async def departures(self, machine_id: str, *, epoch: int) -> list[Departure]:
        """In what the standing incarnation differs from what was verified; what older ones left is removed."""
        files = self._files(machine_id)
        step = partial(readiness.departures, files=files, epoch=epoch)
        return await self._act(machine_id, epoch, None, lambda connection, _: step(connection))

    async def resume(self, machine_id: str, *, epoch: int, grant: str, claim: Claim | None = None) -> None:
        """The machine's processors run. Raises HypervisorRefused when it is not what was verified any more."""
        files = self._files(machine_id)
        await self._act(machine_id, epoch, claim, lambda connection, _: readiness.resume(connection, files, grant))

    async def destroy(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """No process, overlay or definition of the machine is left; the warm snapshot stays."""
        await self._act(machine_id, epoch, claim, self._sweep)

    async def erase(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """Nothing of the machine is left but its fence, under which nobody may act any more."""
        await self._act(machine_id, epoch, claim, self._erase)

    async def halt(self, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        """No process of the machine is left; overlay, console and snapshot are as they were."""
        await self._act(machine_id, epoch, claim, self._halt)

    async def fences(self) -> Mapping[str, int]:
        """The fence of every machine that has files here."""
        step = partial(highest_of_all, self._settings.machines_dir)
        return await self._link.aside(step, timeout_s=self._settings.call_timeout_s)

    async def changed(self) -> None:
        """The daemon told of a domain, or the connection to it was lost, since this was last awaited."""
        await self._link.changed()

    async def observe(self) -> list[DomainSeen]:
        """Every domain there is."""
        return await self._link.call(domains.seen, timeout_s=self._settings.call_timeout_s)

    async def discard(self, name: str) -> None:
        """There is no domain of that name, which bears our prefix and is no machine's. No file is touched."""
        if not name.startswith(NAME_PREFIX):
            raise HypervisorRefused(f"{name} is not ours to remove")
        step = partial(domains.gone, machine_id=name.removeprefix(NAME_PREFIX))
        await self._link.call(step, timeout_s=self._settings.call_timeout_s)

    async def close(self) -> None:
        """The connection is closed; machines run on."""
        await self._link.close()

    async def _act(self, machine_id: str, epoch: int, claim: Claim | None, step: Callable[[Any, str], T]) -> T:
        def fenced(connection: Any) -> T:
            with self._fence(machine_id).acting(epoch, claim, timeout_s=self._settings.call_timeout_s):
                return step(connection, machine_id)

        return await self._link.call(fenced, timeout_s=self._settings.call_timeout_s)

    def _files(self, machine_id: str) -> MachineFiles:
        return MachineFiles(self._settings.machines_dir, machine_id)

    def _fence(self, machine_id: str) -> HostFence:
        return HostFence(self._files(machine_id).directory)

    def _cable(self, spec: MachineSpec) -> Path | None:
        """Where the machine's analysis card connects to; the network helper names it alike."""
        directory = self._settings.cables_dir
        return directory / socket_name(spec.machine_id) if directory and spec.has_analysis_card else None

    def _halt(self, connection: Any, machine_id: str) -> None:
        """No process is left. What libvirt forgot is found in the process table."""
        directory = self._files(machine_id).directory
        pids = qemu_processes.of_machine(directory)
        places = [place for pid in pids if (place := qemu_processes.libvirt_directory(pid))]
        # Killed before libvirt is asked: it would first ask the emulator politely, which takes it a second.
        qemu_processes.end_all(directory, timeout_s=_PROCESS_END_TIMEOUT_S)
        domains.gone(connection, machine_id)
        qemu_processes.end_all(directory, timeout_s=_PROCESS_END_TIMEOUT_S)
        for place in places:  # libvirt removes those of the domains that it knows
            shutil.rmtree(place, ignore_errors=True)

    def _sweep(self, connection: Any, machine_id: str) -> None:
        """Nothing that any incarnation made is left."""
        self._halt(connection, machine_id)
        self._files(machine_id).discard_lives()

    def _erase(self, connection: Any, machine_id: str) -> None:
        """Nor the warm snapshot, with the enrolment key in its memory."""
        self._sweep(connection, machine_id)
        self._files(machine_id).discard_warm()

    def _checked_image(self, spec: MachineSpec) -> BuiltImage:
        image = BuiltImage(self._settings.images_dir, spec.image)
        image.refuse_unfit(spec)
        image.refuse_damaged()
        return image

    def _choose(self, spec: MachineSpec, image: BuiltImage) -> Verdict:
        if spec.acceleration == "tcg":
            return Verdict("tcg", "the specification asks for emulation")
        cache = self._settings.machines_dir / ".acceleration.json"
        verdict = probe(self._settings.emulator, image.kernel, cache)
        if spec.acceleration == "kvm" and verdict.accelerator != "kvm":
            raise HypervisorRefused(f"the specification asks for KVM, which this host does not have: {verdict.reason}")
        return verdict

    def _boot(self, build: _Build, enrolment: bytes, connection: Any) -> int:
        spec, epoch, image = build.spec, build.epoch, build.image
        files = self._files(spec.machine_id)
        with self._fence(spec.machine_id).acting(epoch, build.claim, timeout_s=self._settings.call_timeout_s):
            self._sweep(connection, spec.machine_id)
            files.discard_warm()
            building = files.building(epoch, build.claim)
            disk = files.begin(building, backing=image.disk)
            bundle = building / ENROLMENT
            bundle.touch(mode=0o600)
            bundle.write_bytes(enrolment)
            firmware = self._firmware(files, building) if spec.firmware == "efi" else None

            def plan(port: int) -> str:
                return render(
                    DomainPlan(
                        spec=spec,
                        epoch=epoch,
                        accelerator=build.verdict.accelerator,
                        emulator=self._settings.emulator,
                        kernel=image.kernel,
                        initrd=image.initrd,
                        kernel_arguments=image.kernel_arguments,
                        disk=disk,
                        enrolment=bundle,
                        agent_port=port,
                        console=building / CONSOLE,
                        firmware=firmware,
                        cable=self._cable(spec),
                    )
                )

            return domains.start(connection, plan)

    def _firmware(self, files: MachineFiles, building: Path) -> Firmware:
        code = self._settings.firmware_code
        if not code.exists():
            raise HypervisorRefused(f"firmware efi needs {code.name}: install the package ovmf")
        return Firmware(code, files.begin_variables(building, like=self._settings.firmware_variables))

    def _freeze(self, build: _Build, connection: Any) -> Snapshot:
        spec, epoch = build.spec, build.epoch
        files = self._files(spec.machine_id)
        building = files.building(epoch, build.claim)
        with self._fence(spec.machine_id).acting(epoch, build.claim, timeout_s=self._settings.call_timeout_s):
            known_as = identity(domains.live_xml(connection, spec.machine_id))
            domains.save(connection, spec.machine_id, building / MEMORY)
            qemu_processes.end_all(files.directory, timeout_s=_PROCESS_END_TIMEOUT_S)
            files.prepare_overlay(building)
            return files.publish(
                building,
                epoch=epoch,
                accelerator=build.verdict.accelerator,
                domain_identity=known_as,
                image=build.image.files,
            )

    def _restore(self, machine_id: str, epoch: int, claim: Claim | None, connection: Any) -> Incarnation:
        files = self._files(machine_id)
        with self._fence(machine_id).acting(epoch, claim, timeout_s=self._settings.call_timeout_s):
            self._sweep(connection, machine_id)
            snapshot = files.snapshot()
            life = files.life(epoch, claim)
            disk = files.begin(life, backing=files.warm / DISK)
            blank = _blank(life / ENROLMENT, like=files.warm / ENROLMENT)
            kept = files.warm / VARIABLES
            variables = files.begin_variables(life, like=kept) if kept.exists() else None

            def next_of(saved: str, port: int) -> str:
                return succeed(saved, epoch=epoch, disk=disk, enrolment=blank, agent_port=port, variables=variables)

            port = domains.restore(connection, files.warm / MEMORY, next_of)
            evidence = self._judged(connection, machine_id, snapshot)
            _refuse_canary(life)
            overlay = f"{disk.stat().st_ino}"
            return Incarnation(GuestAddress(domains.LOOPBACK, port), evidence={**evidence, "overlay_inode": overlay})

    def _judged(self, connection: Any, machine_id: str, snapshot: Snapshot) -> dict[str, str]:
        """What shows that the incarnation is the one provisioned. Raises HypervisorRefused with each fault."""
        xml = domains.live_xml(connection, machine_id)
        faults = faults_of_domain(xml)
        if identity(xml) != snapshot.domain_identity:
            faults.append("its definition is not the one that was provisioned")
        pids = qemu_processes.of_machine(self._files(machine_id).directory)
        if len(pids) != 1:
            faults.append(f"it has {len(pids)} processes")
        for pid in pids:
            faults += faults_of_process(confinement(pid), qemu_processes.arguments(pid))
        if faults:
            domains.gone(connection, machine_id)
            raise HypervisorRefused(f"{machine_id} does not match the hardened profile: {'; '.join(faults)}")
        return {
            "warm_disk_sha256": snapshot.files[_WARM_DISK].sha256,
            "memory_sha256": snapshot.files[_WARM_MEMORY].sha256,
            "domain_sha256": snapshot.domain_identity,
            "process": str(pids[0]),
        }

    async def _last_words(self, build: _Build) -> str:
        """The end of the boot's console, escaped. No sample has run yet: this is our own image speaking."""
        console = self._files(build.spec.machine_id).building(build.epoch, build.claim) / CONSOLE
        said = await self._link.aside(partial(_tail, console), timeout_s=self._settings.call_timeout_s)
        return ascii(said.decode(errors="replace"))


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _LAST_WORDS_BYTES))
            return stream.read(_LAST_WORDS_BYTES)
    except OSError:
        return b""


def _refuse_canary(life: Path) -> None:
    """Nothing of an earlier lease is in the incarnation's files, which are as small as they are young."""
    holders = [path.name for path in sorted(life.iterdir()) if canary.is_in(path)]
    if holders:
        raise HypervisorRefused(f"a canary of an earlier lease is in a fresh incarnation's {', '.join(holders)}")


def _port_of(machine_id: str, connection: Any) -> int:
    port = forwarded_port(domains.live_xml(connection, machine_id))
    if port is None:
        raise HypervisorRefused(f"the domain of {machine_id} forwards no port to its agent")
    return port


def _blank(path: Path, *, like: Path) -> Path:
    """Zeros in place of the enrolment bundle: the agent has read it, and no sample needs to find it."""
    path.touch(mode=0o600)
    path.write_bytes(bytes(like.stat().st_size))
    return path
