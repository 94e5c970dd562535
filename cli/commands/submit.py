"""malbox submit: hands in a sample, and, when asked to, stays until its report is there."""

from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from cli import output, sample, watch
from cli.client import Client
from cli.commands import report
from cli.commands.shared import AsJson, api


def submit(  # noqa: PLR0917 - a command's options are its parameters
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sample.")],
    package: Annotated[
        str | None, typer.Option(metavar="NAME", help="How to run it; auto decides from its content.")
    ] = None,
    archive_entry: Annotated[str | None, typer.Option(metavar="PATH", help="Which file of an archive to run.")] = None,
    password: Annotated[str | None, typer.Option(metavar="TEXT", help="Password of the archive or document.")] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option("--argument", "-a", metavar="TEXT", help="Argument for the sample; repeat for more."),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLUGIN",
            help='Plugin to run, a name or JSON {"name": …, "config": {…}}; repeat for more. Default: all.',
        ),
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Machine profile; one task for each.")
    ] = None,
    machine: Annotated[str | None, typer.Option(metavar="MACHINE", help="This machine and no other.")] = None,
    timeout: Annotated[int | None, typer.Option(metavar="SECONDS", help="Seconds to observe.")] = None,
    enforce_timeout: Annotated[
        bool, typer.Option("--enforce-timeout", help="Observe the whole time even if the sample ends.")
    ] = False,
    route: Annotated[
        str | None, typer.Option(metavar="ROUTE", help="What the guest may reach: none, simulated, internet.")
    ] = None,
    priority: Annotated[int | None, typer.Option(metavar="NUMBER", help="0 to 9; higher goes first.")] = None,
    custom: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Text of yours, handed back with the task.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="Label; repeat for more.")] = None,
    tlp: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="Traffic light: clear, green, amber, amber+strict, red.")
    ] = None,
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="Run it only where the guest is bounded by hardware virtualisation.")
    ] = False,
    children: Annotated[
        str | None,
        typer.Option(
            metavar="CHOICE",
            help='Files found inside as samples: true, false, or JSON {"depth": …, "per_task": …, "kinds": […]}.',
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the report is there, and print it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit a sample for analysis."""
    size_bytes = sample.check(file)
    fields: dict[str, Any] = {
        "package": package,
        "archive_entry": archive_entry,
        "password": password,
        "argument": argument,
        "plugin": plugin,
        "profile": profile,
        "machine": machine,
        "timeout": timeout,
        "enforce_timeout": "true" if enforce_timeout else None,
        "route": route,
        "priority": priority,
        "custom": custom,
        "tag": tag,
        "tlp": tlp,
        "untrusted": "true" if untrusted else None,
        "children": children,
    }
    given = {name: _as_text(value) for name, value in fields.items() if value is not None}
    with api() as client:
        submission = send(client, file, size_bytes, given)
        if wait:
            raise typer.Exit(_wait(client, submission, as_json=as_json))
    if as_json:
        output.print_json(submission)
    else:
        _tell(submission)


def send(client: Client, file: Path, size_bytes: int, fields: dict[str, Any]) -> dict[str, Any]:
    """The submission as accepted. A repeat after a lost answer is the same submission. Raises Refused, Unreachable."""
    limit_bytes = int(client.get("/submissions/options")["sample_max_bytes"])
    sample.check_limit(file, size_bytes, limit_bytes)
    with file.open("rb") as content:
        submission: dict[str, Any] = client.post(
            "/submissions",
            data=fields,
            files={"file": (sample.name_of(file), content, "application/octet-stream")},
            headers={"Idempotency-Key": uuid4().hex},
        )
    return submission


def _wait(client: Client, submission: dict[str, Any], *, as_json: bool) -> int:
    task_ids = [task["task_id"] for task in submission["tasks"]]
    if not as_json:
        _tell_accepted(submission)
    tasks = [watch.follow(client, task_id) for task_id in task_ids]
    reports = [report.fetch_if_ready(client, task) for task in tasks]
    if as_json:
        output.print_json({"submission": submission, "tasks": tasks, "reports": reports})
    else:
        for task, content in zip(tasks, reports, strict=True):
            report.show(client, task["task_id"], content, task)
    return report.exit_code_of_all(tasks)


def _tell_accepted(submission: dict[str, Any]) -> None:
    described = submission["sample"]
    output.say(f"{described['name']}  {described['size_bytes']} bytes  sha256 {described['sha256']}")
    for task in submission["tasks"]:
        output.say(f"{task['task_id']}  profile {task['profile']}")


def _tell(submission: dict[str, Any]) -> None:
    _tell_accepted(submission)
    for task in submission["tasks"]:
        print(task["task_id"])
    first = submission["tasks"][0]["task_id"]
    output.say(f"Watch it: malbox task watch {first}   Its report: malbox report {first}")


def _as_text(value: str | int | list[str]) -> str | list[str]:
    return value if isinstance(value, list) else str(value)
