"""Who holds a piece of work: judged by beats that the holder counts up, never by a clock that two would have to share.

A holder believes in its claim for `HELD_S` after it *sent* its last renewal that succeeded, and then stops. Another
worker may take the claim `TAKEN_AFTER_S` after *it* last saw the count change. Each measures with its own monotonic
clock: a clock that jumps means nothing here, and one may run half as fast again as the other. A claim whose database
connection is gone is free at once. None of this is needed for safety: an older claimant's commits are refused by the
store, whenever they come.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import asyncpg
import orjson

from services.chassis.store import Connection, Store, translated
from services.chassis.work.items import WorkItem

RENEW_S = 2.0
HELD_S = 8.0
TAKEN_AFTER_S = 12.0


@dataclass(frozen=True)
class Claim:
    """A claim as it was seen: whose attempt it is, and how often it was renewed."""

    work_id: int
    kind: str
    attempt: int
    beats: int
    is_orphaned: bool = False


class Observer:
    """Remembers since when each claim of another has looked as it looks. Pure: instants are passed in."""

    def __init__(self) -> None:
        self._since: dict[tuple[int, int, int], float] = {}

    def abandoned(self, claims: Iterable[Claim], now: float) -> list[Claim]:
        """Those that may be taken, of all that there are at this instant, which is not before they were read."""
        seen = {(claim.work_id, claim.attempt, claim.beats): claim for claim in claims}
        self._since = {key: self._since.get(key, now) for key in seen}
        return [claim for key, claim in seen.items() if claim.is_orphaned or now - self._since[key] >= TAKEN_AFTER_S]


async def renew(connection: Connection, mine: Sequence[tuple[int, int]]) -> tuple[set[int], set[int]]:
    """The claims, as (work, attempt), that were renewed over this connection, and those that somebody else has.

    One that is in neither set is finished or given back. Raises StoreUnavailable.
    """
    if not mine:
        return set(), set()
    ids, attempts = [work_id for work_id, _ in mine], [attempt for _, attempt in mine]
    with translated():
        rows = await connection.fetch(
            "UPDATE work SET beats = beats + 1, claimed_pid = pg_backend_pid() "
            "FROM unnest($1::bigint[], $2::int[]) AS mine(id, attempt) "
            "WHERE work.id = mine.id AND work.attempts = mine.attempt AND claimed_pid IS NOT NULL RETURNING work.id",
            ids,
            attempts,
        )
        kept = {row["id"] for row in rows}
        if len(kept) == len(mine):
            return kept, set()
        taken = await connection.fetch(
            "SELECT work.id FROM work JOIN unnest($1::bigint[], $2::int[]) AS mine(id, attempt) USING (id) "
            "WHERE work.attempts > mine.attempt",
            ids,
            attempts,
        )
    return kept, {row["id"] for row in taken}


async def others(connection: Connection, kinds: Sequence[str], mine: Sequence[int]) -> list[Claim]:
    """Every claim of those kinds that is not one of mine. Raises StoreUnavailable."""
    with translated():
        rows = await connection.fetch(
            "SELECT id, kind, attempts, beats, "
            "NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = claimed_pid) AS is_orphaned "
            "FROM work WHERE claimed_pid IS NOT NULL AND kind = ANY($1::text[]) AND id <> ALL($2::bigint[])",
            list(kinds),
            list(mine),
        )
    return [Claim(row["id"], row["kind"], row["attempts"], row["beats"], row["is_orphaned"]) for row in rows]


async def take(connection: Connection, abandoned: Sequence[Claim]) -> list[WorkItem]:
    """Those that nobody renewed or took since they were seen, claimed over this connection. Raises StoreUnavailable."""
    with translated():
        rows = await connection.fetch(
            """
            UPDATE work SET attempts = attempts + 1, beats = beats + 1, claimed_pid = pg_backend_pid() WHERE id IN (
                SELECT id FROM work JOIN unnest($1::bigint[], $2::int[], $3::bigint[]) AS seen(id, attempt, beat)
                USING (id) WHERE attempts = attempt AND beats = beat AND claimed_pid IS NOT NULL
                FOR UPDATE OF work SKIP LOCKED)
            RETURNING id, kind, key, payload::text AS payload, attempts
            """,
            [claim.work_id for claim in abandoned],
            [claim.attempt for claim in abandoned],
            [claim.beats for claim in abandoned],
        )
    return [_item(row) for row in rows]


async def claim_due(
    connection: Connection, places: Mapping[str, int], mine: Sequence[int]
) -> tuple[list[WorkItem], float | None]:
    """As much due work of each kind as there are places, and in how many seconds the next is due, if any is.

    One statement for all kinds. Raises StoreUnavailable.
    """
    with translated():
        rows = await connection.fetch(
            """
            WITH claimed AS (
                UPDATE work SET attempts = attempts + 1, beats = beats + 1, claimed_pid = pg_backend_pid() WHERE id IN (
                    SELECT due.id FROM unnest($1::text[], $2::int[]) AS wanted(kind, places) CROSS JOIN LATERAL (
                        SELECT id FROM work WHERE kind = wanted.kind AND due_at <= now() AND claimed_pid IS NULL
                        AND id <> ALL($3::bigint[])
                        ORDER BY due_at LIMIT wanted.places FOR UPDATE SKIP LOCKED) AS due)
                RETURNING id, kind, key, payload::text AS payload, attempts)
            SELECT later.due_s, claimed.* FROM (
                SELECT extract(epoch FROM min(due_at) - now())::float8 AS due_s FROM work WHERE due_at > now()) AS later
            LEFT JOIN claimed ON true
            """,
            list(places),
            list(places.values()),
            list(mine),
        )
    return [_item(row) for row in rows if row["id"] is not None], rows[0]["due_s"]


async def release(store: Store, item: WorkItem) -> None:
    """Nobody has to find out that this claim is abandoned. Raises StoreUnavailable."""
    await store.fetch("UPDATE work SET claimed_pid = NULL WHERE id = $1 AND attempts = $2", item.work_id, item.attempt)


def _item(row: asyncpg.Record) -> WorkItem:
    return WorkItem(row["id"], row["kind"], row["key"], orjson.loads(row["payload"]), row["attempts"])
