"""malbox report: what is known of a task, for people or as JSON."""

from collections.abc import Iterable
from typing import Any

import typer

from cli import output
from cli.client import API_PREFIX, Client
from cli.commands.shared import AsJson, TaskArgument, api
from cli.errors import CANCELLED, DONE, FAILED, GUEST_LOST, TIMED_OUT, UNSERVICEABLE, Refused
from cli.render import render_report

ENDS = {"completed": DONE, "timed_out": TIMED_OUT, "cancelled": CANCELLED, "unserviceable": UNSERVICEABLE}


def report(task: TaskArgument, as_json: AsJson = False) -> None:
    """Print the report of a task."""
    with api() as client:
        content = client.get(f"/tasks/{task}/report")
        if as_json:
            output.print_json(content)
        else:
            show(client, task, content)


def fetch_if_ready(client: Client, task: dict[str, Any]) -> dict[str, Any] | None:
    """The report of a task that is over, or None when it ended without one. Raises Refused, Unreachable."""
    try:
        content: dict[str, Any] = client.get(f"/tasks/{task['task_id']}/report")
    except Refused as error:
        if error.code in {"report_not_ready", "not_found"}:
            return None
        raise
    return content


def show(client: Client, task_id: str, content: dict[str, Any] | None, task: dict[str, Any] | None = None) -> None:
    """The report, and where the rest of it is. Without a report: how the task ended, and why."""
    if content is None:
        _show_end(task or {"task_id": task_id})
        return
    output.out.print(render_report(content))
    output.say("")
    output.say(f"Full report:  malbox report {task_id} --json   ({client.url}{API_PREFIX}/tasks/{task_id}/report)")
    output.say(f"Artifacts:    malbox artifacts list {task_id}   malbox artifacts get {task_id} --output DIRECTORY")


def _show_end(task: dict[str, Any]) -> None:
    output.print_fields(
        [
            ("task", task.get("task_id")),
            ("state", task.get("state")),
            ("reason", task.get("outcome_reason") or task.get("why")),
            ("attempts", task.get("attempts")),
            *((f"error {error.get('stage')}", _error(error)) for error in task.get("errors") or []),
        ]
    )
    output.say("There is no report: the task ended before there was anything to report.")


def _error(error: dict[str, Any]) -> str:
    return f"{error.get('plugin') or 'stage'} {error.get('outcome')}: {error.get('reason')}"


def exit_code(task: dict[str, Any]) -> int:
    """How the task ended, for scripts: 0 when it completed."""
    state = str(task.get("state"))
    if state == "failed" and task.get("ended_by") == "guest_lost":
        return GUEST_LOST
    return ENDS.get(state, FAILED)


def exit_code_of_all(tasks: Iterable[dict[str, Any]]) -> int:
    """0 when all completed; how the others ended, if they all ended alike; else 1."""
    codes = {exit_code(task) for task in tasks} - {DONE}
    return FAILED if len(codes) > 1 else codes.pop() if codes else DONE


def stop_with(task: dict[str, Any]) -> None:
    """Ends the command as the task ended. Raises typer.Exit."""
    raise typer.Exit(exit_code(task))
