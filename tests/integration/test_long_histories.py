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


async def known(store: Store, events: int = 3) -> UUID:
    """The stream of one that this process has at hand."""
    stream = await begun(store, events)
    unit = Unit(service="machines", at=NOW, uuid=uuid4, announce=no_announcements)
    assert await store.load(Counted, stream, unit) is not None
    await store.commit(unit)
    return stream


async def say(store: Store, stream: UUID, word: str, *, is_saved: bool = True) -> None:
    """A unit is decided on what the store knows, and says one more word, or decides that there is nothing to say."""
    unit = Unit(service="machines", at=NOW, uuid=uuid4, announce=no_announcements)
    counted = await store.load(Counted, stream, unit)
    assert counted is not None
    if is_saved:
        counted.say(word)
        unit.save(counted)
    await store.commit(unit)


@pytest.mark.promise("P15")
async def test_what_is_at_hand_is_not_read_again_and_is_what_the_store_holds(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten words are said without a read, each after the one before, and all of them are stored."""
    stream = await known(store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "fetch", None)
        for number in range(10):
            await say(store, stream, f"word {number}")
    counted = await store.load(Counted, stream)
    assert counted is not None
    assert counted.words == ["0", "1", *(f"word {number}" for number in range(10))]


@pytest.mark.promise("P15")
@pytest.mark.parametrize("is_saved", [True, False])
async def test_a_unit_decided_on_what_another_process_changed_is_refused(
    store: Store, database_url: str, *, is_saved: bool
) -> None:
    """Also one that decided to do nothing; asked again, it is decided on what the store holds."""
    stream = await known(store)
    other = await Store.open(database_url, "machines")
    await say(other, stream, "of another")
    await other.close()
    with pytest.raises(Conflict):
        await say(store, stream, "mine", is_saved=is_saved)
    await say(store, stream, "mine", is_saved=is_saved)
    counted = await store.load(Counted, stream)
    assert counted is not None
    assert counted.words == ["0", "1", "of another", *(["mine"] if is_saved else [])]


@pytest.mark.promise("P15")
async def test_what_is_at_hand_is_not_believed_against_a_store_of_another_history(store: Store) -> None:
    """The last event is gone, or another stands in its place: the unit is refused, and the next is not."""
    stream = await known(store)
    await store.fetch("DELETE FROM events WHERE stream = $1 AND version = 3", stream)
    with pytest.raises(Conflict):
        await say(store, stream, "after the end")
    await say(store, stream, "again")
    await store.fetch("UPDATE events SET state = $2 WHERE stream = $1 AND version = 3", stream, b'{"word":"b"}')
    with pytest.raises(Conflict):
        await say(store, stream, "beside the point")


@pytest.mark.promise("P15")
async def test_what_was_changed_and_not_saved_is_no_next_units(store: Store) -> None:
    """Only what was committed is at hand."""
    stream = await known(store)
    unit = Unit(service="machines", at=NOW, uuid=uuid4, announce=no_announcements)
    counted = await store.load(Counted, stream, unit)
    assert counted is not None
    counted.say("never saved")
    await store.commit(unit)
    await say(store, stream, "saved")
    found = await store.load(Counted, stream)
    assert found is not None
    assert found.words == ["0", "1", "saved"]
