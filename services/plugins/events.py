"""What a plugin is told: the facts of its own task, as far as they were said when its group began (decision 0027).

They are taken from what this service remembers to have said, so that they are complete, in order, and the same whenever
the run is done again. They reach the plugin as one more input.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from contracts.envelope import Message
from malbox.sdk.context import EVENTS_NAME, EVENTS_PLUGIN
from malbox.sdk.manifest import Events
from malbox.sdk.manifest.events import SUBSCRIBABLE
from services.plugins.domain.catalogue import Plugin
from services.plugins.ports import InputFile

EVENTS_MAX = 1000
EVENTS_MAX_BYTES = 8 * 1024 * 1024


def subscribed(plugins: Iterable[Plugin]) -> frozenset[str]:
    """The types of the facts that any of the plugins subscribes to."""
    return frozenset(SUBSCRIBABLE[name].type_name() for plugin in plugins for name in plugin.manifest.events.subscribe)


@dataclass(frozen=True)
class Told:
    """What a plugin is told, as JSON, and in words what it is not told."""

    content: bytes
    gaps: tuple[str, ...] = ()


def told(events: Events, facts: Sequence[Message], earlier: Mapping[str, int]) -> Told | None:
    """What a plugin with those subscriptions is told; None when it has none. The latest stay within bounds.

    `earlier`: how many facts of each type there are before `facts`, into which nobody looks.
    """
    if not events.subscribe:
        return None
    kept: list[bytes] = []
    size_bytes = left_out = 0
    for fact in reversed(facts):
        name, content = type(fact).__name__, fact.model_dump(mode="json")
        if not events.wants(name, content):
            continue
        event = orjson.dumps({"fact": name, "content": content})
        size_bytes += len(event) + 1
        if left_out or len(kept) == EVENTS_MAX or size_bytes > EVENTS_MAX_BYTES:
            left_out += 1
        else:
            kept.append(event)
    gaps = tuple(_gaps(left_out, sum(earlier.get(SUBSCRIBABLE[name].type_name(), 0) for name in events.subscribe)))
    return Told(_document(kept, is_truncated=bool(gaps)), gaps)


def _gaps(left_out: int, unread: int) -> Iterator[str]:
    if left_out:
        bounds = f"more than {EVENTS_MAX}, or than {EVENTS_MAX_BYTES // 2**20} MiB"
        yield f"{left_out} earlier facts that it subscribes to were not told to it: there were {bounds}"
    if unread:
        yield f"{unread} facts before those, of types that it subscribes to, were not looked at"


def as_input(content: bytes, path: Path) -> InputFile:
    """The input that brings it, written where anybody may read it."""
    path.write_bytes(content)
    path.chmod(0o644)  # the sandbox's processes are nobody's when root runs the service
    return InputFile(EVENTS_PLUGIN, EVENTS_NAME, path, "application/json")


def _document(latest_first: Sequence[bytes], *, is_truncated: bool) -> bytes:
    listed = b",".join(reversed(latest_first))
    return b'{"events":[' + listed + b'],"is_truncated":' + (b"true" if is_truncated else b"false") + b"}"
