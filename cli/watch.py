"""Follows one task to its end over server-sent events, through restarts of services, and shows what it waits for."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from cli import output, sse
from cli.client import Client
from cli.errors import CliError, Interrupted, Refused, Unreachable
from cli.render import safe
from cli.render.escape import escaped

TERMINAL_STATES = frozenset({"completed", "failed", "timed_out", "cancelled", "unserviceable"})
UNKNOWN_MAX_S = 30.0
UNKNOWN_POLL_S = 0.2
AWAY_MAX_S = 300.0
AWAY_POLL_FIRST_S, AWAY_POLL_MAX_S = 0.5, 5.0
IDLE_S = 30.0  # the scheduler says at least a comment every ten seconds
REFRESH_PER_S = 8

Task = dict[str, Any]
Show = Callable[["Progress"], None]


@dataclass
class Progress:
    """What is known of the task, and since when it is followed."""

    task_id: str
    began_s: float = field(default_factory=time.monotonic)
    task: Task = field(default_factory=dict)
    fact: str = ""
    away: str = ""

    @property
    def state(self) -> str:
        """The task's state; empty until the scheduler knows it."""
        return str(self.task.get("state", ""))


def follow(client: Client, task_id: str) -> Task:
    """The task at its end. Raises Interrupted on Ctrl-C, Unreachable when Malbox stays away, Refused."""
    progress = Progress(task_id)
    screen, show = _screen(progress)
    try:
        with screen:
            for _ in _changes(client, progress):
                show(progress)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped watching; {task_id} goes on.",
            remedy=f"Watch again: malbox task watch {task_id}   end it: malbox task cancel {task_id}",
        ) from None
    return progress.task


def _changes(client: Client, progress: Progress) -> Iterator[None]:
    """Something changed. Connects again whenever the stream ends before the task does."""
    failing_since: float | None = None
    pause_s = AWAY_POLL_FIRST_S
    while True:
        try:
            for _ in _stream(client, progress):
                failing_since, pause_s = None, AWAY_POLL_FIRST_S
                yield
                if progress.state in TERMINAL_STATES:
                    return
            reason = "the stream ended"
        except (Unreachable, Refused) as error:
            pause_s = _pause_s(error, progress, pause_s)
            reason = error.message
        failing_since = failing_since or time.monotonic()
        if time.monotonic() - failing_since > AWAY_MAX_S:
            raise Unreachable(
                f"No news of {progress.task_id} for {AWAY_MAX_S:.0f} s: {reason}",
                remedy=f"Look at `malbox status`; watch again: malbox task watch {progress.task_id}",
            )
        if progress.task:
            progress.away = reason
            yield
        time.sleep(pause_s)


def _pause_s(error: CliError, progress: Progress, pause_s: float) -> float:
    """How long to wait before the next try. Raises the error when trying again is no use."""
    if isinstance(error, Refused):
        is_new = error.status == 404 and not progress.task  # noqa: PLR2004 - not found
        if is_new and time.monotonic() - progress.began_s < UNKNOWN_MAX_S:
            return UNKNOWN_POLL_S  # just submitted: the scheduler hears of it in a moment
        if error.status < 500:  # noqa: PLR2004 - a refusal, not a service that restarts
            raise error
    return min(pause_s * 2, AWAY_POLL_MAX_S)


def _stream(client: Client, progress: Progress) -> Iterator[None]:
    with client.stream(f"/tasks/{progress.task_id}/events", idle_s=IDLE_S) as answer:
        for event in sse.events(answer.iter_lines()):
            content = _mapping(event.data)
            progress.away = ""
            if event.name == "task" and content:
                progress.task = content
            elif event.name == "fact":
                progress.fact = in_words(content)
            yield


def in_words(fact: dict[str, Any]) -> str:
    """A fact such as `plugin finished: yara completed`."""
    kind = str(fact.get("type", "")).removeprefix("malbox.").rpartition(".v")[0].replace(".", " ").replace("-", " ")
    about = [str(fact[key]) for key in ("stage", "plugin", "name", "outcome", "reason") if fact.get(key)]
    return f"{kind}: {' '.join(about)}" if about else kind


def _screen(progress: Progress) -> tuple[AbstractContextManager[Any], Show]:
    if not output.is_terminal():
        return nullcontext(), _Lines().show
    spinner = Spinner("dots")
    live = Live(
        get_renderable=lambda: _picture(progress, spinner),
        console=output.err,
        refresh_per_second=REFRESH_PER_S,
        transient=True,
    )
    return live, lambda _progress: None


class _Lines:
    """One line for each change, for logs and pipes."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, progress: Progress) -> None:
        """The change is a line on standard error, unless it is the same as the last one."""
        text = _sentence(progress)
        if text != self._last:
            self._last = text
            output.say(f"{datetime.now(UTC):%H:%M:%S} {text}")


def _sentence(progress: Progress) -> str:
    if progress.away:
        return escaped(f"{progress.task_id} waiting for Malbox to come back: {progress.away}")
    parts = [progress.task_id, progress.state or "submitted", *_where(progress.task)]
    why = progress.task.get("why")
    if why:
        parts.append(f"({why})")
    if progress.fact and progress.state not in TERMINAL_STATES:
        parts.append(f"- {progress.fact}")
    return escaped(" ".join(parts))


def _picture(progress: Progress, spinner: Spinner) -> Group:
    task = progress.task
    head = Text.assemble(
        (progress.state or "submitted", "bold cyan"), f"  {_elapsed(task)}  ", safe(" ".join(_where(task)), style="dim")
    )
    spinner.update(text=head)
    rows: list[Any] = [spinner]
    if task.get("why"):
        rows.append(Text.assemble("  ", safe(task["why"])))
    if lost := task.get("lost_attempts"):
        rows.append(Text.assemble("  ", safe(f"attempt {lost[-1].get('attempt')} was lost: {lost[-1].get('reason')}")))
    if spent := _spent(task):
        rows.append(Text.assemble("  ", safe(spent, style="dim")))
    rows += [
        Text.assemble("  ", safe(f"{stage.get('name')}: {stage.get('state')}", style="dim"))
        for stage in task.get("stages") or []
    ]
    if progress.away:
        rows.append(Text.assemble("  waiting for Malbox to come back: ", safe(progress.away, style="yellow")))
    elif progress.fact:
        rows.append(Text.assemble("  ", safe(progress.fact, style="dim")))
    return Group(*rows)


def _where(task: Task) -> list[str]:
    words = [f"on {task['machine_id']}"] if task.get("machine_id") else []
    if int(task.get("attempts") or 0) > 1:
        words.append(f"attempt {task['attempts']} of {task.get('attempts_max', '?')}")
    return words


def _spent(task: Task) -> str:
    """What each phase took of its budget when the task changed last: `queue 3 of 86400 s · boot 2 of 300 s`."""
    phases = [each for each in task.get("phases") or [] if each.get("spent_s")]
    return " · ".join(f"{each.get('phase')} {each['spent_s']:.0f} of {each.get('budget_s')} s" for each in phases)


def _elapsed(task: Task) -> str:
    """How long the task is in its state, by this machine's clock."""
    try:
        since = datetime.fromisoformat(str(task.get("state_since")))
    except ValueError:
        return ""
    return f"for {max(0, round((datetime.now(UTC) - since).total_seconds()))} s"


def _mapping(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
