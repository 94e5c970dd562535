"""malbox projections: what is made from events, and making it again."""

import time
from typing import Annotated, Any

import typer

from cli import output
from cli.client import Client
from cli.commands.shared import AsJson, Reason, api
from cli.errors import FAILED, Usage
from deploy.local.state import SERVICES

app = typer.Typer(help="What is shown of events: list, rebuild.", no_args_is_help=True)
LOOK_S = 0.5
Projection = Annotated[str, typer.Argument(metavar="NAME", help="Name of a projection.")]


@app.command("list")
def list_projections(as_json: AsJson = False) -> None:
    """List the projections: how many events behind each is, and when, by whom and why it was last rebuilt."""
    with api() as client:
        items = _all(client)
    if as_json:
        output.print_json({"items": items})
        return
    output.print_table(
        ("projection", "service", "behind", "last rebuild", "asked", "by", "why", "rows changed"),
        (_cells(each) for each in items),
        empty="There are no projections.",
    )


@app.command("rebuild")
def rebuild(
    name: Projection,
    reason: Reason,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a projection again from its events, while it goes on being read. Exits 1 when that fails.

    Ctrl-C ends the waiting, not the rebuild.
    """
    with api() as client:
        known = {str(each.get("projection")): each for each in _all(client)}
        if name not in known:
            raise Usage(f"There is no projection {name!r}.", remedy=f"One of {', '.join(known)}.")
        service = known[name]["service"]
        found = client.post(f"/projections/{service}/{name}/rebuild", json={"reason": reason})
        while not no_wait and _last(found).get("state") == "running":
            time.sleep(LOOK_S)
            found = next(each for each in _of(client, service) if each.get("projection") == name)
            if output.is_terminal():
                output.say(f"{_last(found).get('events_done')} of {_last(found).get('events_total')} events")
    _tell(name, found, as_json=as_json)


def _tell(name: str, found: dict[str, Any], *, as_json: bool) -> None:
    last = _last(found)
    if as_json:
        output.print_json(found)
    elif last.get("state") == "done":
        output.say(
            f"{name} was rebuilt from {last.get('events_done')} events; {last.get('rows_changed')} rows changed."
        )
    elif last.get("state") == "running":
        output.say(f"{name} is being rebuilt. Look at it: malbox projections list")
    if last.get("state") == "failed":
        output.say(f"{name} could not be rebuilt; its rows are as they were. {last.get('error')}")
        raise typer.Exit(FAILED)


def _all(client: Client) -> list[dict[str, Any]]:
    return [{"service": service, **each} for service in SERVICES for each in _of(client, service)]


def _of(client: Client, service: str) -> list[dict[str, Any]]:
    return output.items_of(client.get(f"/projections/{service}"))


def _last(found: dict[str, Any]) -> dict[str, Any]:
    return found.get("rebuild") or {}


def _cells(each: dict[str, Any]) -> tuple[Any, ...]:
    last = _last(each)
    what = last.get("state", "never")
    if what == "running":
        what = f"running, {last.get('events_done')} of {last.get('events_total')} events"
    asked = tuple(last.get(field, "") for field in ("asked_at", "who", "reason", "rows_changed"))
    return (each.get("projection"), each.get("service"), each.get("events_behind"), what, *asked)
