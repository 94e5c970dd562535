"""The fleet as one query shows it: enough to see who is worth loading, however many there are."""

from dataclasses import dataclass, fields
from typing import Any

import orjson

from contracts.machines import MachineSummary
from services.chassis.store import Store
from services.machines.domain.spec import MachineSpec
from services.machines.policy import WORK_OF_STATE, Standing, on_host

_FLEET = (
    "SELECT machine_id, state, since, epoch, version, lease_id, term, hard_deadline_at, address, verified_at, cures, "
    "cause, wanted::text AS wanted, wanted_image, spec::text AS spec, acceleration FROM fleet WHERE host = $1"
)
_KINDS = sorted({kind for state, kind in WORK_OF_STATE.items() if kind != "stop"})


@dataclass(frozen=True)
class Row:
    """One machine as its projection has it, which may be a moment behind."""

    standing: Standing
    version: int
    term: int | None
    wanted: str
    wanted_image: str
    spec: str
    acceleration: Any

    def wants(self, spec: Any, image_identity: str) -> bool:
        """Whether it is, or is to become, of that specification (as JSON) and image."""
        return image_identity == self.wanted_image and spec == orjson.loads(self.wanted)

    def summary(self) -> MachineSummary:
        """What other services may know of it."""
        return MachineSpec.model_validate_json(self.spec).summary(self.acceleration)


_OF_STANDING = tuple(one.name for one in fields(Standing))
_OF_ROW = tuple(one.name for one in fields(Row) if one.name != "standing")


async def fleet(store: Store, host: str) -> dict[str, Row]:
    """Every machine of the host, by name. Raises StoreUnavailable."""
    return {row["machine_id"]: _row(row) for row in await store.fetch(_FLEET, host)}


async def work_in_hand(store: Store, host: str) -> frozenset[tuple[str, str]]:
    """(kind, machine) of everything that is to be done or being done on the host. Raises StoreUnavailable."""
    kinds = {on_host(kind, host): kind for kind in _KINDS}
    rows = await store.fetch("SELECT kind, key FROM work WHERE kind = ANY($1::text[])", sorted(kinds))
    return frozenset((kinds[row["kind"]], row["key"].partition(":")[0]) for row in rows)


def _row(row: Any) -> Row:
    standing = Standing(**{name: row[name] for name in _OF_STANDING})
    return Row(standing=standing, **{name: row[name] for name in _OF_ROW})
