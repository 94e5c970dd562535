"""A running installation with real machines, as whoever has the host in their hands sees and touches it."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import libvirt

from deploy.local import libvirt as daemon
from deploy.local import processes
from deploy.local.installation import Installation
from deploy.local.postgres import DATABASE
from deploy.local.secrets import DATABASE_SUPERUSER
from deploy.local.services import fetch_health
from services.machines.adapters import qemu_processes, standing
from services.machines.adapters.domain_xml import domain_name
from services.machines.adapters.machine_files import DISK, ENROLMENT, MEMORY, MachineFiles
from services.machines.adapters.standing import Standing
from tests.bench.wire import Origin, Refused
from tests.prove.daemon import kill
from tests.prove.facts import Ear, Fact
from tests.prove.orphans import OLD_S, orphans

REBUILD_TIMEOUT_S = 180.0
LEASE_TIMEOUT_S = 60.0
SHOWN_TIMEOUT_S = 15.0
LOOK_S = 0.2  # neither the process table nor a directory announces that something went


@dataclass(frozen=True)
class Ground:
    """One machine of one installation."""

    here: Installation
    ear: Ear
    machine_id: str = "linux-1"

    @property
    def origin(self) -> Origin:
        """The installation's API, as its administrator."""
        return Origin(self.here.ports["gateway"], self.here.secrets.admin_token)

    @property
    def files(self) -> MachineFiles:
        """The machine's files."""
        return MachineFiles(self.here.state.machines, self.machine_id)

    @property
    def life(self) -> Path:
        """The only incarnation's directory."""
        (only,) = self.files.lives()
        return only

    @property
    def overlay(self) -> Path:
        """The incarnation's disk."""
        return self.life / DISK

    @property
    def warm_disk(self) -> Path:
        """The disk below it."""
        return self.files.warm / DISK

    @property
    def memory(self) -> Path:
        """The memory image that incarnations are restored from."""
        return self.files.warm / MEMORY

    @property
    def bundle(self) -> Path:
        """The enrolment bundle that the warm snapshot was booted with."""
        return self.files.warm / ENROLMENT

    @property
    def image_disk(self) -> Path:
        """The disk of the image, below everything."""
        return (self.here.state.images / "linux").resolve() / DISK

    @property
    def standing(self) -> Standing:
        """How the incarnation stood when it was verified."""
        found = standing.read(self.life)
        assert found is not None, f"{self.machine_id} does not stand ready"
        return found

    @property
    def pid(self) -> int:
        """The only emulator of the machine."""
        (only,) = qemu_processes.of_machine(self.files.directory)
        return only

    @contextlib.contextmanager
    def libvirt(self) -> Iterator[Any]:
        """A connection to the private daemon."""
        connection = libvirt.open(daemon.uri(self.here.state))
        try:
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def domain(self) -> Iterator[Any]:
        """The machine's domain."""
        with self.libvirt() as connection:
            yield connection.lookupByName(domain_name(self.machine_id))

    def restart_libvirt(self, *, forgetting: bool = False) -> None:
        """The daemon was killed and another one answers; it may have forgotten that the machine runs."""
        kill(self.here.state)
        if forgetting:
            (
                self.here.state.libvirt / "run" / "libvirt" / "qemu" / "run" / f"{domain_name(self.machine_id)}.xml"
            ).unlink()
        with processes.only_starter(self.here.state, daemon.NAME):  # a supervisor may be starting it, too
            daemon.start(self.here.state)

    @contextlib.contextmanager
    def unseen(self) -> Iterator[None]:
        """The machines service stands still for the block: what happens between two of its looks is one deed to it."""
        service = processes.started(self.here.state, "machines")
        assert service is not None, "the machines service does not run"
        os.kill(service.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(service.pid, signal.SIGCONT)

    async def shown(self, *, at_epoch: int = 0) -> dict[str, Any]:
        """The machine as the API shows it, once that knows of the epoch: facts are faster than the list of machines."""
        async with asyncio.timeout(SHOWN_TIMEOUT_S), self.origin.connected() as wire:
            while True:  # bounded by the timeout
                found: dict[str, Any] = await wire.get(f"/machines/{self.machine_id}")
                if found["epoch"] >= at_epoch:
                    return found
                await asyncio.sleep(LOOK_S)

    async def task(self, task_id: str) -> dict[str, Any]:
        """The task as the API shows it."""
        async with self.origin.connected() as wire:
            found: dict[str, Any] = await wire.get(f"/tasks/{task_id}")
        return found

    async def no_orphans(self) -> None:
        """Nothing is nobody's for longer than half a minute: what is found goes by then. Raises AssertionError."""
        give_up_at = time.monotonic() + OLD_S
        while left := await self._orphans():
            assert time.monotonic() < give_up_at, f"nobody's for more than {OLD_S:.0f} s: {left}"
            await asyncio.sleep(LOOK_S)

    async def _orphans(self) -> list[str]:
        async with self.origin.connected() as wire:
            machines = (await wire.get("/machines"))["items"]
        with self.libvirt() as connection:
            return orphans(self.here.state, connection, machines)

    async def epoch(self) -> int:
        """The machine's epoch: the latest that was heard of, or that is shown."""
        heard = [int(fact.data["epoch"]) for fact in self.ear.facts if fact.is_of(self.machine_id)]
        return max([*heard, int((await self.shown())["epoch"])])

    async def looked_at(self) -> None:
        """A close look of the reconciler, begun after this was called, is over. Raises AssertionError."""
        asked_at, give_up_at = datetime.now(UTC), time.monotonic() + SHOWN_TIMEOUT_S
        while not self._looked_closely_at() > asked_at:
            assert time.monotonic() < give_up_at, f"no close look of the reconciler within {SHOWN_TIMEOUT_S:.0f} s"
            await asyncio.sleep(LOOK_S)

    def _looked_closely_at(self) -> datetime:
        """When the last pass began, if it was a close one: passes are further apart than looks at them."""
        said = (fetch_health(self.here.ports["machines"], "machines") or {}).get("reconciliation", {})
        is_close = said.get("is_close") and said.get("at")
        return datetime.fromisoformat(said["at"]) if is_close else datetime.min.replace(tzinfo=UTC)

    async def told(self, order: str, reason: str) -> None:
        """An administrator's word about the machine."""
        body = json.dumps({"reason": reason}).encode()
        async with self.origin.connected() as wire:
            await wire.exchange("POST", f"/machines/{self.machine_id}/{order}", body, "application/json")

    async def rebuilt(self) -> Fact:
        """A quarantined machine was built again by an operator's word, and is ready."""
        mark = self.ear.mark()
        await self.told("rebuild", "the proof put the file right")
        return await self.reverted(since=mark, timeout_s=REBUILD_TIMEOUT_S)

    async def made_ready(self, *, timeout_s: float = REBUILD_TIMEOUT_S) -> None:
        """The machine is ready, whatever it takes but a restart. Raises AssertionError, saying what it is instead."""
        give_up_at, state = time.monotonic() + timeout_s, "unknown"
        while state != "ready":
            assert time.monotonic() < give_up_at, f"{self.machine_id} is {state} after {timeout_s:.0f} s"
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(Refused):  # it is not known yet, or moved on before the word came
                state = (await self.shown())["state"]
                if state == "quarantined":
                    await self.told("rebuild", "the proof goes on")

    async def reverted(self, *, since: int, timeout_s: float, above: int = -1) -> Fact:
        """The machine was verified clean, at an epoch above that one. Raises NotHeardError."""
        return await self.ear.until(
            f"{self.machine_id} is verified clean",
            lambda fact: fact.is_of(self.machine_id) and fact.name == "machine.reverted" and fact.data["epoch"] > above,
            since=since,
            timeout_s=timeout_s,
        )

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """The database, as its superuser."""
        connection = await asyncpg.connect(self.here.postgres().url(DATABASE_SUPERUSER, DATABASE), timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=10)
