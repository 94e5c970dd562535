"""How the task went, from the facts about it that the manifest subscribes to.

The filter of the manifest leaves runs that did not do what they were to do; those that completed are not even sent.
"""

from typing import Any

from malbox.sdk import Context, Event


def run(context: Context) -> None:
    """One JSON result."""
    context.emit_json("course", course(context.events))


def course(events: tuple[Event, ...]) -> dict[str, Any]:
    """What the facts come to, in their order."""
    return {
        "guests_lost": sum(event.fact == "GuestLost" for event in events),
        "exit_codes": [event.content["exit_code"] for event in events if event.fact == "SampleExited"],
        "not_done": [
            {key: event.content[key] for key in ("plugin", "outcome", "reason")}
            for event in events
            if event.fact == "PluginFinished"
        ],
    }
