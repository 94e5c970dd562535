"""An aggregate with a long history: read whole once, then only what is new, and never believed against the store."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import ClassVar
from uuid import UUID, uuid4

import pytest
from eventsourcing.domain import Aggregate

from services.chassis import recent
from services.chassis import store as stores
from services.chassis.migrations import migrate
from services.chassis.run import no_announcements
from services.chassis.store import Conflict, Store
from services.chassis.unit import Unit

pytestmark = pytest.mark.integration
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LONG = recent.EVENTS_MIN + 10


class Counted(Aggregate):
    """Something that remembers what was said to it."""

    TOPIC: ClassVar[str] = "test-counted"

    class Event(Aggregate.Event):
        """Something was said to it."""

        TOPIC: ClassVar[str] = "test-counted:event"

    class Begun(Event, Aggregate.Created):
        """It exists."""

        TOPIC: ClassVar[str] = "test-counted:begun"

    class Said(Event):
        """One more word."""

        TOPIC: ClassVar[str] = "test-counted:said"
        word: str

        def apply(self, aggregate: "Counted") -> None:
            """It is remembered."""
            aggregate.words.append(self.word)

    def __init__(self) -> None:
        self.words: list[str] = []

    def say(self, word: str) -> None:
        """One more word."""
        self.trigger_event(self.Said, word=word, timestamp=NOW)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A service's store."""
    opened = await Store.open(database_url, "machines")
    await migrate(opened, ())
    yield opened
    await opened.close()


async def save(store: Store, counted: Counted) -> None:
    """Its new events are committed."""
    unit = Unit(service="machines", at=NOW, uuid=uuid4, announce=no_announcements)
    unit.save(counted)
    await store.commit(unit)


async def begun(store: Store, events: int = LONG) -> UUID:
    """The stream of one with so many events."""
    counted = Counted._create(Counted.Begun, id=uuid4(), timestamp=NOW)
    for number in range(events - 1):
        counted.say(str(number))
    await save(store, counted)
    return counted.id


async def words(store: Store, stream: UUID) -> list[str]:
    """What it remembers."""
    found = await store.load(Counted, stream)
    assert found is not None
    return found.words


async def test_every_load_has_what_any_process_committed_and_is_the_callers_own(
    store: Store, database_url: str
) -> None:
    """Another process's events are seen at once; what one caller does to its copy no other sees."""
    stream = await begun(store)
    first = await store.load(Counted, stream)
    assert first is not None
    first.words.append("never said")
    first.say("lost")
    other = await Store.open(database_url, "machines")
    elsewhere = await other.load(Counted, stream)
    assert elsewhere is not None
    elsewhere.say("said elsewhere")
    await save(other, elsewhere)
    await other.close()
    assert (await words(store, stream))[-2:] == [str(LONG - 2), "said elsewhere"]
    assert await words(store, stream) == await words(store, stream)
    with pytest.raises(Conflict):
        await save(store, first)


@pytest.mark.promise("P4")
async def test_a_store_with_another_history_is_believed(store: Store) -> None:
    """Restored from an older backup, or with other events at the same versions: what is kept gives way."""
    stream = await begun(store)
    before = await words(store, stream)
    await store.fetch("DELETE FROM events WHERE stream = $1 AND version > $2", stream, LONG - 5)
    assert await words(store, stream) == before[:-5]
    counted = await store.load(Counted, stream)
    assert counted is not None
    for number in range(7):
        counted.say(f"after the restore {number}")
    await save(store, counted)
    assert (await words(store, stream))[-8:-6] == [before[-6], "after the restore 0"]
    await store.fetch("DELETE FROM events WHERE stream = $1", stream)
    assert await store.load(Counted, stream) is None


async def test_a_history_longer_than_one_reading_is_read_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No number of events makes the end of a history invisible."""
    monkeypatch.setattr(stores, "EVENTS_MAX", 7)
    for events in (1, 6, 7, 8, 13, 14, 15, LONG):
        stream = await begun(store, events)
        assert await words(store, stream) == [str(number) for number in range(events - 1)]
        assert await words(store, stream) == [str(number) for number in range(events - 1)]


async def test_only_so_many_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was not asked for longest is forgotten; a short history is never kept."""
    monkeypatch.setattr(recent, "KEPT_MAX", 2)
    short = await begun(store, 5)
    await words(store, short)
    streams = [await begun(store) for _ in range(3)]
    for stream in streams:
        await words(store, stream)
    assert [store._recent.get(stream) is not None for stream in (short, *streams)] == [False, False, True, True]
