"""malbox task: list, show, watch, cancel."""

from typing import Annotated, Any

import typer

from cli import output, watch
from cli.commands import report
from cli.commands.shared import AsJson, TaskArgument, api

app = typer.Typer(help="Tasks: list, show, watch, cancel.", no_args_is_help=True)
PAGE_MAX = 200


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
    if as_json:
        output.print_json(page)
        return
    output.print_table(
        ("task", "state", "since", "profile", "verdict", "sample"),
        (
            (
                task.get("task_id"),
                task.get("state"),
                task.get("since"),
                task.get("profile"),
                task.get("verdict"),
                task.get("sample_name"),
            )
            for task in output.items_of(page)
        ),
        empty="There are no tasks.",
    )
    if page.get("next"):
        output.say(f"More: malbox task list --after {page['next']}")


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
    output.print_table(
        ("state", "at", "why"),
        ((entry.get("state"), entry.get("at"), entry.get("why")) for entry in task.get("history") or []),
        empty="No history.",
    )
    _show_attempts(task.get("lost_attempts") or [])
    _show_phases(task.get("phases") or [])
    errors = task.get("errors") or []
    if errors:
        output.out.print()
        output.print_table(
            ("stage", "plugin", "outcome", "reason"),
            ((each.get("stage"), each.get("plugin"), each.get("outcome"), each.get("reason")) for each in errors),
            empty="",
        )


def _show_attempts(lost: list[dict[str, Any]]) -> None:
    if lost:
        output.out.print()
        output.print_table(
            ("lost attempt", "machine", "at", "reason"),
            ((each.get("attempt"), each.get("machine_id"), each.get("at"), each.get("reason")) for each in lost),
            empty="",
        )


def _show_phases(phases: list[dict[str, Any]]) -> None:
    """What each phase took of its budget; those that took nothing are left out."""
    spent = [each for each in phases if each.get("spent_s")]
    if spent:
        output.out.print()
        output.print_table(
            ("phase", "took s", "of s"),
            ((each.get("phase"), each.get("spent_s"), each.get("budget_s")) for each in spent),
            empty="",
        )
