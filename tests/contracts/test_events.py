"""Every version of every stored event stays readable: a golden state is added to, never edited.

After a new event or version, write its golden state with `python -m tests.contracts.test_events`.
"""

import json
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args, get_type_hints
from uuid import UUID

import pytest
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import StoredEvent

from services.chassis.store import make_mapper
from services.intake.domain.family import Family
from services.machines.domain.machine import Machine
from services.scheduler.domain.task import Task

GOLDEN = Path(__file__).parent / "golden_events"
STREAM = UUID(int=1)
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EXAMPLES: dict[Any, Any] = {str: "text", int: 1, float: 1.0, bool: True, datetime: AT, UUID: STREAM}


def event_classes() -> Iterator[type[Any]]:
    """Every event that is ever stored."""
    for aggregate in (Family, Machine, Task):
        for value in vars(aggregate).values():
            is_event = isinstance(value, type) and issubclass(value, Aggregate.Event)
            if is_event and "TOPIC" in vars(value) and value is not aggregate.Event:
                yield value


CLASSES = sorted(event_classes(), key=lambda kind: kind.TOPIC)


def golden_name(kind: type[Any]) -> str:
    """The file of the event's present version."""
    return f"{kind.TOPIC.replace(':', '.')}.v{getattr(kind, 'class_version', 1)}.json"


def example(kind: type[Any]) -> Any:
    """An event with a value of each field's type."""
    hints = get_type_hints(kind)
    values = {field.name: value_of(hints[field.name]) for field in fields(kind)}
    return kind(**{**values, "originator_id": STREAM, "originator_version": 2, "timestamp": AT})


def value_of(annotation: Any) -> Any:
    """Some value of the type."""
    if annotation in EXAMPLES:
        return EXAMPLES[annotation]
    arguments = get_args(annotation)
    if arguments and isinstance(arguments[0], str):
        return arguments[0]
    if type(None) in arguments:
        return value_of(arguments[0])
    return {} if "dict" in str(annotation) else []


def state_of(kind: type[Any]) -> Any:
    """The event's stored form."""
    return json.loads(make_mapper().to_stored_event(example(kind)).state)


@pytest.mark.promise("P51")
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.TOPIC)
def test_a_change_of_an_event_is_a_new_version(kind: type[Any]) -> None:
    """What is stored today is what the golden state of this version holds, field by field."""
    golden = json.loads((GOLDEN / golden_name(kind)).read_text(encoding="utf-8"))
    assert state_of(kind).keys() == golden.keys()


@pytest.mark.promise("P51")
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_every_version_ever_stored_is_still_read(path: Path) -> None:
    """Upcast to the present version, with all of its fields."""
    topic = path.stem.rpartition(".v")[0].replace(".", ":")
    event: Any = make_mapper().to_domain_event(StoredEvent(STREAM, 2, topic, path.read_bytes()))
    kind = next(kind for kind in CLASSES if topic == kind.TOPIC)
    assert isinstance(event, kind)
    assert all(hasattr(event, field.name) for field in fields(kind))


def write() -> None:
    """Golden states that are missing are written; none that stands is touched."""
    for kind in CLASSES:
        path = GOLDEN / golden_name(kind)
        if not path.exists():
            path.write_text(json.dumps(state_of(kind), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
