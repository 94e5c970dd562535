"""docs/lifecycles.md: what a task and a machine can be and become, drawn from their tables of transitions."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.catalogue import BY_TYPE
from contracts.scheduler import TERMINAL_STATES
from deploy.docs.conversation import first_sentence
from services.machines.announcements import WORDS as MACHINE_WORDS
from services.machines.domain import lifecycle as machine_table
from services.machines.domain.machine import Machine
from services.scheduler.announcements import WORDS as TASK_WORDS
from services.scheduler.domain import lifecycle as task_table
from services.scheduler.domain.task import Task

HEAD = """# Lifecycles

Generated from the tables of transitions by `make docs`; a test holds it to them. What is not drawn cannot happen: the
aggregate refuses the event.
"""
NAMES = {kind.__name__ for kind in BY_TYPE.values()}
TERMINAL_MACHINE_STATES = frozenset({"retired"})


@dataclass(frozen=True)
class Lifecycle:
    """One aggregate's table and what is known about it."""

    title: str
    source: str
    introduction: str
    first: tuple[str, str]
    known: Mapping[Any, str]
    transitions: Mapping[tuple[Any, str], Any]
    terminal: frozenset[str]
    aggregate: Any
    words: Mapping[type[Any], Callable[..., Iterable[Any]]]
    new_epoch: frozenset[str] = frozenset()


TASK = Lifecycle(
    title="A task",
    source="services/scheduler/domain/lifecycle.py",
    introduction="One analysis of one sample. Only the scheduler changes it.",
    first=("Submitted", "submitted"),
    known=task_table.KNOWN,
    transitions=task_table.TRANSITIONS,
    terminal=TERMINAL_STATES,
    aggregate=Task,
    words=TASK_WORDS,
)
MACHINE = Lifecycle(
    title="A machine",
    source="services/machines/domain/lifecycle.py",
    introduction=(
        "A virtual machine that can be restored clean. Only the machines service changes it. Exactly one edge leads\n"
        "to `ready`: `CleanVerified`, with evidence. An event marked * changes the owner and begins a new epoch,\n"
        "which fences whoever held the machine before."
    ),
    first=("Registered", "registered"),
    known=machine_table.KNOWN,
    transitions=machine_table.TRANSITIONS,
    terminal=TERMINAL_MACHINE_STATES,
    aggregate=Machine,
    words=MACHINE_WORDS,
    new_epoch=machine_table.NEW_EPOCH,
)


def page() -> str:
    """The page."""
    return "\n".join([HEAD, *_lifecycle(TASK), "", *_lifecycle(MACHINE)]) + "\n"


def said_by(words: Callable[..., Iterable[Any]] | None) -> list[str]:
    """The messages that an announcement may say: those that its code names, or that it was made for."""
    if words is None:
        return []
    enclosed = [cell.cell_contents for cell in words.__closure__ or ()]
    used = [*words.__code__.co_names, *(getattr(value, "__name__", "") for value in enclosed)]
    return [name for name in dict.fromkeys(used) if name in NAMES]


def _lifecycle(life: Lifecycle) -> Iterator[str]:
    yield f"## {life.title}\n"
    yield f"{life.introduction} The table: `{life.source}`.\n"
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield from _diagram(life)
    yield "```\n"
    yield "| state | what is known in it |"
    yield "|---|---|"
    yield from (f"| {state} | {sentence} |" for state, sentence in life.known.items())
    yield "\n| event | what happened | from → to | what is said |"
    yield "|---|---|---|---|"
    yield from (_event(life, name) for name in _events(life))


def _diagram(life: Lifecycle) -> Iterator[str]:
    event, first = life.first
    yield f"    [*] --> {first} : {event}"
    edges: dict[tuple[str, str], list[str]] = {}
    for (state, name), successor in life.transitions.items():
        if state != successor:
            edges.setdefault((state, successor), []).append(_marked(life, name))
    yield from (f"    {state} --> {then} : {', '.join(names)}" for (state, then), names in edges.items())
    yield from (f"    {state} --> [*]" for state in life.known if state in life.terminal)


def _events(life: Lifecycle) -> list[str]:
    return list(dict.fromkeys([life.first[0], *(name for _, name in life.transitions)]))


def _event(life: Lifecycle, name: str) -> str:
    kind = getattr(life.aggregate, name)
    moves: dict[str, list[str]] = {}
    for (state, event), successor in life.transitions.items():
        if event == name:
            moves.setdefault("the same" if state == successor else successor, []).append(state)
    where = "; ".join(f"{', '.join(states)} → {then}" for then, states in moves.items()) or f"→ {life.first[1]}"
    said = ", ".join(said_by(life.words.get(kind))) or "nothing"
    return f"| {_marked(life, name)} | {first_sentence(kind.__doc__)} | {where} | {said} |"


def _marked(life: Lifecycle, name: str) -> str:
    return f"{name}*" if name in life.new_epoch else name
