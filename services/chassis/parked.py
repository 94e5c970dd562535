"""Messages that nobody could handle: kept in the service's own store until an operator replays or drops them.

`<queue>.dead` is only their way here, whoever put them there: this service, or the broker at its delivery limit.
A message is known by its queue and bytes, so one that comes back after a replay is the same row, counted once more.
A replay that the broker lost can be said again until the inbox shows that the message was handled.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from contracts.envelope import Envelope, EnvelopeError
from contracts.limits import REASON_MAX_CHARS
from services.chassis.errors import PermanentError
from services.chassis.housekeeping import INBOX_DAYS
from services.chassis.store import Connection, Store

PARKED, REPLAYED, DROPPED = "parked", "replayed", "dropped"
DECIDED_DAYS = 90
_DIGITS = 24
_NOTHING_SENT = "INSERT 0 0"
_SHOWN = "id, queue, type, subject, reason, times, state, first_parked_at, parked_at, decided_at"


class UnknownMessage(PermanentError):
    """there is no such message"""


class AlreadyDecided(PermanentError):
    """an operator decided otherwise before"""


@dataclass(frozen=True)
class Dead:
    """A message as it comes out of a dead-letter queue. `times` counts how often it has been parked."""

    queue: str
    body: bytes
    reason: str
    times: int


@dataclass(frozen=True)
class Word:
    """What an operator says: who, and why."""

    who: str
    why: str


def identity(service: str, queue: str, body: bytes) -> str:
    """`<service>-<24 hex digits>`: the same for the same bytes in the same queue."""
    digest = hashlib.sha256(b"\x00".join((queue.encode(), body))).hexdigest()
    return f"{service}-{digest[:_DIGITS]}"


class ParkedMessages:
    """The parked messages of one service. Every method raises StoreUnavailable."""

    def __init__(self, store: Store, wake_relay: Callable[[], None]) -> None:
        self._store = store
        self._wake_relay = wake_relay

    async def keep(self, dead: Dead) -> None:
        """The message is an operator's to see. Delivered twice, it is kept once."""
        kind, subject = _described(dead.body)
        await self._store.fetch(
            "INSERT INTO parked (id, queue, type, subject, reason, body, times) VALUES ($1, $2, $3, $4, $5, $6, $7) "
            "ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, times = excluded.times, parked_at = now(), "
            "state = 'parked', decided_at = NULL WHERE parked.times < excluded.times",
            identity(self._store.schema, dead.queue, dead.body),
            dead.queue,
            kind,
            subject,
            _stored(dead.reason),
            dead.body,
            dead.times,
        )

    async def waiting(self) -> int:
        """How many wait for an operator."""
        row = await self._store.fetchrow("SELECT count(*) AS n FROM parked WHERE state = 'parked'")
        return int(row["n"]) if row else 0

    async def page(self, state: str | None, limit: int, after: str | None) -> list[dict[str, Any]]:
        """One more than `limit`, if there are, the latest first, each with what was last decided about it."""
        rows = await self._store.fetch(
            f"SELECT {_SHOWN}, decided.who AS decided_by, decided.why AS decided_why FROM parked "  # noqa: S608
            "LEFT JOIN LATERAL (SELECT who, reason FROM operator_actions WHERE target = parked.id "
            "ORDER BY position DESC LIMIT 1) AS decided(who, why) ON true "
            "WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR (parked_at, id) < "
            "(SELECT parked_at, id FROM parked WHERE id = $2)) ORDER BY parked_at DESC, id DESC LIMIT $3",
            state,
            after,
            limit + 1,
        )
        ids = [row["id"] for row in rows if row["state"] == REPLAYED]
        async with self._store.transaction() as connection:
            handled = await _handled(connection, ids)
        return [{**row, "is_handled": handled.get(row["id"])} for row in rows]

    async def show(self, message_id: str) -> dict[str, Any]:
        """The message with its body, and everything that operators did about it. Raises UnknownMessage."""
        row = await self._store.fetchrow(f"SELECT {_SHOWN}, body FROM parked WHERE id = $1", message_id)  # noqa: S608
        if row is None:
            raise UnknownMessage(f"There is no parked message {message_id!r}.")
        actions = await self._store.fetch(
            "SELECT at, who, action, reason FROM operator_actions WHERE target = $1 ORDER BY position", message_id
        )
        async with self._store.transaction() as connection:
            handled = await _handled(connection, [message_id])
        return {
            **row,
            "is_handled": handled.get(message_id),
            "body": row["body"].decode(errors="replace"),
            "actions": [dict(action) for action in actions],
        }

    async def replay(self, message_id: str, word: Word) -> None:
        """A copy is on its way to its queue, or was handled. Raises UnknownMessage, AlreadyDecided.

        Said again it makes another copy, for the broker may have lost the one before; the inbox lets only one act.
        """
        async with self._store.transaction() as connection:
            row = await _locked(connection, message_id)
            if row["state"] == DROPPED:
                raise AlreadyDecided(f"{message_id} was dropped.")
            if row["state"] == REPLAYED:
                is_handled = (await _handled(connection, [message_id])).get(message_id)
                if is_handled:
                    return
                if is_handled is None:
                    raise AlreadyDecided(f"{message_id} was replayed so long ago that nobody knows what came of it.")
            sent = await connection.execute(
                "INSERT INTO outbox (message_id, exchange, routing_key, body, replays) VALUES ($1, $2, $3, $4, $5) "
                "ON CONFLICT (message_id) DO NOTHING",
                f"{message_id}-{row['times']}",
                f"{self._store.schema}.own",
                row["queue"],
                row["body"],
                row["times"],
            )
            if sent != _NOTHING_SENT:
                await _decide(connection, message_id, REPLAYED, word)
        self._wake_relay()

    async def drop(self, message_id: str, word: Word) -> None:
        """Nobody will handle the message; what it said stays on record. Raises UnknownMessage, AlreadyDecided."""
        async with self._store.transaction() as connection:
            row = await _locked(connection, message_id)
            if row["state"] == REPLAYED:
                raise AlreadyDecided(f"{message_id} was replayed.")
            if row["state"] == PARKED:
                await _decide(connection, message_id, DROPPED, word)


async def record_action(connection: Connection, word: Word, action: str, target: str) -> None:
    """Who did what, and why, is on record with the rest of the transaction."""
    await connection.execute(
        "INSERT INTO operator_actions (who, action, target, reason) VALUES ($1, $2, $3, $4)",
        word.who,
        action,
        target,
        word.why,
    )


async def _locked(connection: Connection, message_id: str) -> asyncpg.Record:
    row = await connection.fetchrow("SELECT state, queue, body, times FROM parked WHERE id = $1 FOR UPDATE", message_id)
    if row is None:
        raise UnknownMessage(f"There is no parked message {message_id!r}.")
    return row


async def _decide(connection: Connection, message_id: str, state: str, word: Word) -> None:
    await connection.execute("UPDATE parked SET state = $2, decided_at = now() WHERE id = $1", message_id, state)
    await record_action(connection, word, state, message_id)


async def _handled(connection: Connection, message_ids: list[str]) -> dict[str, bool | None]:
    """Of each that was replayed, whether it was handled; None once the inbox may have forgotten it."""
    rows = await connection.fetch(
        "SELECT id, body, decided_at < now() - $2::interval AS is_old FROM parked "
        "WHERE id = ANY($1) AND state = 'replayed'",
        message_ids,
        timedelta(days=INBOX_DAYS),
    )
    names = {row["id"]: _name(row["body"]) for row in rows}
    known = await connection.fetch("SELECT message_id FROM inbox WHERE message_id = ANY($1)", list(names.values()))
    taken = {row["message_id"] for row in known}
    return {row["id"]: names[row["id"]] in taken or (None if row["is_old"] else False) for row in rows}


def _name(body: bytes) -> str:
    """What the inbox knows the message by; nothing for bytes that are no envelope, which nobody can handle."""
    try:
        return Envelope.from_json(body).id
    except EnvelopeError:
        return ""


def _described(body: bytes) -> tuple[str, str]:
    """Type and subject, where the bytes are an envelope at all."""
    try:
        envelope = Envelope.from_json(body)
    except EnvelopeError:
        return "", ""
    return _stored(envelope.type), _stored(envelope.subject)


def _stored(text: str) -> str:
    """PostgreSQL stores no NUL, and a guest may have chosen the words."""
    return text.replace("\x00", "")[:REASON_MAX_CHARS]
