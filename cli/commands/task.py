"""malbox task: list, show, watch, cancel."""

from typing import Annotated, Any

import typer

from cli import output, watch
from cli.commands import report
from cli.commands.shared import AsJson, TaskArgument, api, show_page

app = typer.Typer(help="Tasks: list, show, watch, cancel.", no_args_is_help=True)
PAGE_MAX = 200
TASKS = {"task": "task_id", **output.named("state", "since", "profile", "verdict"), "sample": "sample_name"}


@app.command("list")
def list_tasks(
    state: Annotated[str | None, typer.Option(metavar="STATE", help="Only tasks in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE_MAX, metavar="NUMBER", help="How many.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="TASK", help="Go on after this task: `next` of the page before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List tasks, the newest first."""
    with api() as client:
        page = client.get("/tasks", state=state, limit=limit, after=after)
    show_page(page, TASKS, empty="There are no tasks.", as_json=as_json, more="malbox task list --after")


@app.command("show")
def show_task(task: TaskArgument, as_json: AsJson = False) -> None:
    """Show one task: its state, since when and why."""
    with api() as client:
        content = client.get(f"/tasks/{task}")
    if as_json:
        output.print_json(content)
    else:
        _show(content)


@app.command("watch")
def watch_task(task: TaskArgument, as_json: AsJson = False) -> None:
    """Follow a task to its end, then print its report. The exit status says how it ended; 0 when it completed."""
    with api() as client:
        ended = watch.follow(client, task)
        content = report.fetch_if_ready(client, ended)
        if as_json:
            output.print_json({"task": ended, "report": content})
        else:
            report.show(client, task, content, ended)
    report.stop_with(ended)


@app.command("cancel")
def cancel_task(
    task: TaskArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """End a task, whatever it is doing. Its machine is cleaned as always."""
    with api() as client:
        content = client.post(f"/tasks/{task}/cancel", json={"reason": reason})
    if as_json:
        output.print_json(content)
    else:
        output.say(f"{task} is being cancelled. Watch it: malbox task watch {task}")


def _found_in(parent: dict[str, Any] | None) -> str | None:
    return f"{parent.get('task_id')}  as {parent.get('name')}, by {parent.get('plugin')}" if parent else None


def _verdict(task: dict[str, Any]) -> str | None:
    return f"{task['verdict']}  {task.get('score')}/100" if task.get("verdict") else None


def _show(task: dict[str, Any]) -> None:
    sample = task.get("sample") or {}
    output.print_fields(
        [
            ("task", task.get("task_id")),
            ("submission", task.get("submission_id")),
            ("sample", f"{sample.get('name')}  {sample.get('size_bytes')} bytes"),
            ("sha256", sample.get("sha256")),
            ("found in", _found_in(task.get("parent"))),
            ("state", f"{task.get('state')} since {task.get('state_since')}"),
            ("why", task.get("why")),
            ("attempt", f"{task.get('attempts')} of {task.get('attempts_max')}"),
            ("machine", " ".join(str(each) for each in (task.get("machine_id"), task.get("machine")) if each)),
            ("report ready", task.get("report_ready_at")),
            ("verdict", _verdict(task)),
            ("ended by", task.get("ended_by")),
        ]
    )
    output.out.print()
    output.print_items(task.get("history") or [], output.named("state", "at", "why"), empty="No history.")
    attempts = {"lost attempt": "attempt", "machine": "machine_id", **output.named("at", "outcome", "reason")}
    _show_more(task.get("lost_attempts") or [], attempts)
    # What each phase took of its budget; those that took nothing are left out.
    spent = [each for each in task.get("phases") or [] if each.get("spent_s")]
    _show_more(spent, {"phase": "phase", "took s": "spent_s", "of s": "budget_s"})
    _show_more(task.get("errors") or [], output.named("stage", "plugin", "outcome", "reason"))


def _show_more(items: list[dict[str, Any]], columns: dict[str, output.Column]) -> None:
    """A further table, where there is something to show in it."""
    if items:
        output.out.print()
        output.print_items(items, columns, empty="")
