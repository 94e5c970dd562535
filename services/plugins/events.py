"""What a plugin is told: the facts of its own task, as far as they were said when its group began (decision 0027).

They are taken from what this service remembers to have said, so that they are complete, in order, and the same whenever
the run is done again. They reach the plugin as one more input.
"""

from collections.abc import Iterable, Sequence
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


def told(events: Events, facts: Sequence[Message], *, is_cut: bool = False) -> bytes | None:
    """What a plugin with those subscriptions is told, as JSON; None when it has none. The latest stay within bounds.

    `is_cut`: there were more facts before these.
    """
    if not events.subscribe:
        return None
    kept: list[bytes] = []
    size_bytes = 0
    for fact in reversed(facts):
        name, content = type(fact).__name__, fact.model_dump(mode="json")
        if not events.wants(name, content):
            continue
        event = orjson.dumps({"fact": name, "content": content})
        size_bytes += len(event) + 1
        if len(kept) == EVENTS_MAX or size_bytes > EVENTS_MAX_BYTES:
            return _document(kept, is_truncated=True)
        kept.append(event)
    return _document(kept, is_truncated=is_cut)


def as_input(content: bytes, path: Path) -> InputFile:
    """The input that brings it, written where anybody may read it."""
    path.write_bytes(content)
    path.chmod(0o644)  # the sandbox's processes are nobody's when root runs the service
    return InputFile(EVENTS_PLUGIN, EVENTS_NAME, path, "application/json")


def _document(latest_first: Sequence[bytes], *, is_truncated: bool) -> bytes:
    listed = b",".join(reversed(latest_first))
    return b'{"events":[' + listed + b'],"is_truncated":' + (b"true" if is_truncated else b"false") + b"}"
