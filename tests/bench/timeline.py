"""When things happened to one task, from the audit record of its facts. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

SAMPLE_STARTED = "malbox.sample.started.v1"
OBSERVATION_ENDED = "malbox.observation.ended.v1"
RELEASED = "malbox.machine.released.v1"
REVERTING = "malbox.machine.reverting.v1"
REVERTED = "malbox.machine.reverted.v1"


def of_task(events: Iterable[Mapping[str, Any]], task_id: str) -> dict[str, float]:
    """For each fact about the task the instant (Unix time, seconds) that it bears, in the order of those instants.

    A fact of a stage is told from another stage's by the stage in brackets; of several alike the first counts.
    """
    found: dict[str, float] = {}
    for event in events:
        if task_id in (event.get("correlationid"), event.get("subject"), event.get("data", {}).get("task_id")):
            found.setdefault(_name(event), instant_of(event))
    return dict(sorted(found.items(), key=lambda item: item[1]))


def instant_of(event: Mapping[str, Any]) -> float:
    """When the fact happened, as it says itself: Unix time, seconds."""
    return datetime.fromisoformat(str(event["time"])).timestamp()


def since(instants: Mapping[str, float], zero: float) -> dict[str, float]:
    """The same, in seconds since `zero`."""
    return {name: instant - zero for name, instant in instants.items()}


def between(instants: Mapping[str, float], first: str, last: str) -> float:
    """Seconds from one fact to another, each named by its type without the stage. Raises KeyError."""
    return _instant(instants, last) - _instant(instants, first)


def _instant(instants: Mapping[str, float], kind: str) -> float:
    for name, instant in instants.items():
        if name.partition(" ")[0] == kind:
            return instant
    raise KeyError(kind)


def _name(event: Mapping[str, Any]) -> str:
    stage = event.get("data", {}).get("stage")
    return f"{event['type']} ({stage})" if stage else str(event["type"])
