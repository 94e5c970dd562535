"""malbox plugin: what there is to analyse with, and what whoever writes a plugin needs."""

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli import output
from cli.commands.shared import AsJson, Reason, TaskArgument, api, show_page
from cli.errors import DONE, FAILED

app = typer.Typer(help="Plugins: list, show, log, instances, replace; new, validate, test.", no_args_is_help=True)

RESULT_SHOWN_MAX_CHARS = 4000
PLUGINS: dict[str, output.Column] = {
    "plugin": "name",
    "version": lambda each: each.get("version") or "",
    "kind": lambda each: each.get("kind") or "",
    "stages": lambda each: ", ".join(each.get("stages") or []),
    "state": "state",
    "description": lambda each: _reason(each) or each.get("description"),
}
INSTANCES = output.named("plugin", "version", "lifecycle", "state", "since", "runs") | {
    "task": lambda each: each.get("task_id") or "",
    "stage": lambda each: each.get("stage") or "",
    "scope": lambda each: each.get("scope") or "",
    "reason": lambda each: each.get("reason") or "",
}
RUNS = output.named("plugin", "version", "stage", "attempt", "outcome", "duration_ms", "log_chars", "reason")
Folder = Annotated[Path, typer.Argument(metavar="PATH", help="The plugin's folder.")]


@app.command("list")
def list_plugins(as_json: AsJson = False) -> None:
    """List the plugins, and those that are quarantined and folders that were rejected with the reason."""
    with api() as client:
        page = client.get("/plugins")
    if as_json:
        output.print_json(page)
        return
    listed = [*output.items_of(page), *output.items_of(page.get("rejected") or [])]
    output.print_items(listed, PLUGINS, empty="There are no plugins.")


@app.command("show")
def show_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a plugin, or of a rejected folder.")],
    as_json: AsJson = False,
) -> None:
    """Show one plugin with its limits, configuration and results, why it is quarantined, or why its folder is none."""
    with api() as client:
        content = client.get(f"/plugins/{quote(name, safe='')}")
    if as_json:
        output.print_json(content)
    else:
        output.print_fields((key, _in_words(value)) for key, value in content.items())


@app.command("instances")
def list_instances(as_json: AsJson = False) -> None:
    """List the instances of host plugins: which task and stage each is busy with, or why it is not started."""
    with api() as client:
        page = client.get("/plugins/instances")
    show_page(page, INSTANCES, empty="No plugin runs, and none waits.", as_json=as_json)


@app.command("log")
def show_log(
    task: TaskArgument,
    plugin: Annotated[str, typer.Argument(metavar="[PLUGIN]", help="Whose log. Default: the list of all runs.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show what the runs of a task's plugins came to, or what one of them logged."""
    with api() as client:
        page = client.get("/".join(("/plugins/runs", *(quote(part, safe="") for part in (task, plugin) if part))))
    if as_json or not plugin:
        show_page(page, RUNS, empty="No run of a plugin has ended for this task.", as_json=as_json)
        return
    for run in output.items_of(page):
        output.print_line(
            f"{run.get('stage')}, attempt {run.get('attempt')}: {run.get('outcome')} {run.get('reason') or ''}".strip()
        )
        for line in str(run.get("log") or "").splitlines():
            output.print_line(f"log: {line}")


@app.command("replace")
def replace_instances(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The plugin's name.")],
    reason: Reason,
    as_json: AsJson = False,
) -> None:
    """Have fresh instances of a plugin, also of one that is quarantined; runs that are under way end first."""
    with api() as client:
        page = client.post(f"/plugins/instances/{quote(name, safe='')}/replace", json={"reason": reason})
    if as_json:
        output.print_json(page)
    else:
        output.print_line(f"{name} is being replaced.")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The plugin's name, and its folder's.")],
    kind: Annotated[str, typer.Option(metavar="KIND", help="host or guest.")] = "host",
    into: Annotated[Path, typer.Option("--in", metavar="PATH", help="Where the folder is made.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Make a folder that is a plugin already, with a sample and a test, to be changed into the one that is wanted."""
    from cli import authoring  # noqa: PLC0415 - whoever only asks a distant Malbox needs no SDK

    folder = authoring.create(into, name, kind)
    if as_json:
        output.print_json({"folder": str(folder)})
        return
    print(folder)
    output.say(f"Try it: malbox plugin test {folder}")


@app.command("validate")
def validate(path: Folder, as_json: AsJson = False) -> None:
    """Say whether a folder is a plugin, and if not, what to change where. Exits 4 when it is none."""
    from cli import authoring  # noqa: PLC0415

    manifest = authoring.manifest_of(path)
    if as_json:
        output.print_json({"name": manifest.plugin.name, "version": manifest.plugin.version, "is_valid": True})
        return
    about = manifest.plugin
    output.print_line(f"{about.name} {about.version} ({about.kind}) is a plugin.")
    output.print_fields(
        (
            ("stages", ", ".join(manifest.applies.stages)),
            ("results", ", ".join(f"{name} ({spec.kind})" for name, spec in manifest.results.items())),
            ("configuration", ", ".join(manifest.config.get("properties", {}))),
            ("told of", ", ".join(manifest.events.subscribe)),
        )
    )


@app.command("test")
def try_out(  # noqa: PLR0917 - a command's options are its parameters
    path: Folder,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[SAMPLE]", help="What it runs on. Default: each file of the folder's samples."),
    ] = None,
    config: Annotated[str, typer.Option(metavar="JSON", help="Configuration, an object.")] = "{}",
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="PLUGIN/NAME=FILE", help="An earlier result that it is to see; repeat for more."
        ),
    ] = None,
    told: Annotated[
        list[str] | None,
        typer.Option(
            "--event", metavar="FACT=FILE", help="A fact that it is told, its fields as JSON; repeat for more."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a plugin as a task would, in the sandbox, and print what it emits. Exits 1 unless every run completes."""
    from cli import authoring  # noqa: PLC0415

    runs = authoring.runs(path, file, config, given or [], told or [])
    if as_json:
        output.print_json([{"sample": str(of), **authoring.as_mapping(run)} for of, run in runs])
    else:
        for of, run in runs:
            _show_run(of, run)
    raise typer.Exit(DONE if all(run.outcome == "completed" for _of, run in runs) else FAILED)


def _show_run(file: Path, run: Any) -> None:
    output.print_line(f"{file}: {run.outcome} after {run.duration_ms} ms{f': {run.reason}' if run.reason else ''}")
    for name, content in run.content.items():
        shown = content.decode("utf-8", "replace")[:RESULT_SHOWN_MAX_CHARS] if run.kinds[name] == "json" else ""
        output.print_line(f"{name} ({run.kinds[name]}, {run.media_types[name]}, {len(content)} bytes) {shown}".strip())
    for line in run.log.splitlines():
        output.print_line(f"log: {line}")


def _reason(plugin: Any) -> str:
    """Why it is quarantined, and since when, or why it is rejected."""
    since = plugin.get("since")
    return f"{plugin.get('reason') or ''}{f' (since {since})' if since else ''}"


def _in_words(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value
