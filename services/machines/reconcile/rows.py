"""The fleet as one query shows it: enough to see who is worth loading, however many there are."""

from dataclasses import dataclass
from typing import Any

import orjson

from contracts.machines import MachineSummary
from services.chassis.store import Store
from services.machines.domain.spec import MachineSpec
from services.machines.policy import WORK_OF_STATE, Standing

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


async def fleet(store: Store, host: str) -> dict[str, Row]:
    """Every machine of the host, by name. Raises StoreUnavailable."""
    return {row["machine_id"]: _row(row) for row in await store.fetch(_FLEET, host)}


async def work_in_hand(store: Store) -> frozenset[tuple[str, str]]:
    """(kind, machine) of everything that is to be done or being done. Raises StoreUnavailable."""
    rows = await store.fetch("SELECT kind, key FROM work WHERE kind = ANY($1::text[])", _KINDS)
    return frozenset((row["kind"], row["key"].partition(":")[0]) for row in rows)


def _row(row: Any) -> Row:
    standing = Standing(
        machine_id=row["machine_id"],
        state=row["state"],
        since=row["since"],
        epoch=row["epoch"],
        lease_id=row["lease_id"],
        hard_deadline_at=row["hard_deadline_at"],
        address=row["address"],
        verified_at=row["verified_at"],
        cures=row["cures"],
        cause=row["cause"],
    )
    return Row(
        standing=standing,
        version=row["version"],
        term=row["term"],
        wanted=row["wanted"],
        wanted_image=row["wanted_image"],
        spec=row["spec"],
        acceleration=row["acceleration"],
    )
