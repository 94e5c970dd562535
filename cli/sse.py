"""Server-sent events, read from the lines of a response (WHATWG HTML, 9.2.6), each bounded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

EVENT_MAX_CHARS = 4 * 1024 * 1024


@dataclass(frozen=True)
class Event:
    """One event: its name, its data, and the last id that was set."""

    name: str
    data: str
    last_id: str


def events(lines: Iterable[str]) -> Iterator[Event]:
    """The events in the lines; one that is cut off at the end is dropped, one over 4 MiB ends the reading."""
    data: list[str] = []
    name, last_id, size = "", "", 0
    for line in lines:
        if not line:
            if data:
                yield Event(name or "message", "\n".join(data), last_id)
            name, data, size = "", [], 0
            continue
        size += len(line)
        if size > EVENT_MAX_CHARS:
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id" and "\0" not in value:
            last_id = value
