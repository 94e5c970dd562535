"""The hard deadlines of this host's leases, which the host keeps alone: without a store, and before there is one."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from services.chassis.clock import Clock
from services.chassis.errors import MalboxError
from services.machines.errors import StaleEpoch
from services.machines.policy.beats import LOOK_INTERVAL_S
from services.machines.ports import Hypervisor

OVERDUE_GRACE_S = 5.0
"""A deadline that the store's own timer did not keep for so long is kept by the host alone."""

FILE = "held_leases.json"

log = structlog.get_logger()


class Held(BaseModel):
    """One lease in force."""

    model_config = ConfigDict(frozen=True)

    machine_id: str
    epoch: int
    term: int
    hard_deadline_at: AwareDatetime


_HELD: TypeAdapter[dict[str, Held]] = TypeAdapter(dict[str, Held])


class Deadlines:
    """The leases in force, by their ids, as this process saw them last, or the one before it did.

    They are kept in a file, so that a process which starts while the store is away knows them. It need not survive a
    power cut: no guest does.
    """

    def __init__(self, hypervisor: Hypervisor, clock: Clock, file: Path) -> None:
        self._hypervisor = hypervisor
        self._clock = clock
        self._file = file
        self._held = _read(file)

    @property
    def held(self) -> Mapping[str, Held]:
        """The leases in force."""
        return self._held

    def see(self, held: dict[str, Held]) -> None:
        """Those leases are in force, and no others."""
        if held != self._held:
            self._held = held
            self._write()

    async def keep(self) -> None:
        """The guest of a lease past its hard deadline does not run, though nothing can be recorded now.

        One that cannot be ended keeps no other running, whatever the reason: it is tried again at the next look.
        """
        late = self._clock.now() - timedelta(seconds=OVERDUE_GRACE_S)
        for lease_id, held in list(self._held.items()):
            if held.hard_deadline_at < late:
                log.warning("lease_ended_by_the_host_alone", machine=held.machine_id, lease=lease_id)
                if await self._halt(held):
                    self.see({other: one for other, one in self._held.items() if other != lease_id})

    async def _halt(self, held: Held) -> bool:
        """Whether the guest of the lease is known not to run any more."""
        try:
            await self._hypervisor.halt(held.machine_id, epoch=held.epoch)
        except StaleEpoch:
            log.info("overdue_lease_was_over", machine=held.machine_id, epoch=held.epoch)
        except MalboxError as error:
            log.warning("overdue_guest_runs_on", machine=held.machine_id, reason=str(error))
            return False
        except Exception:
            log.exception("overdue_guest_runs_on", machine=held.machine_id)
            return False
        return True

    async def keep_all(self) -> None:
        """Each is kept as it comes; over when no lease is left. Looks at intervals, since wall clocks jump."""
        while self._held:
            await self.keep()
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _write(self) -> None:
        unfinished = self._file.with_suffix(".new")
        try:
            unfinished.write_bytes(_HELD.dump_json(self._held))
            unfinished.rename(self._file)
        except OSError as error:
            log.error("held_leases_were_not_kept", file=str(self._file), reason=str(error))  # noqa: TRY400


def _read(file: Path) -> dict[str, Held]:
    try:
        return _HELD.validate_json(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        log.error("held_leases_cannot_be_read", file=str(file), reason=str(error))  # noqa: TRY400
        return {}
