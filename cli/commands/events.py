"""malbox events: the live stream of tasks, and the audit record from any point on."""

import json
import time
from typing import Annotated

import typer

from cli import output, sse
from cli.client import Client
from cli.commands.shared import AsJson, api
from cli.errors import Refused, Unreachable

app = typer.Typer(help="Events: tail, replay.", no_args_is_help=True)
IDLE_S = 30.0
AWAY_MAX_S = 300.0
RETRY_S = 1.0


@app.command("tail")
def tail(as_json: AsJson = False) -> None:
    """Print every change of every task as it happens, until Ctrl-C."""
    with api() as client:
        _tail(client, as_json=as_json)


@app.command("replay")
def replay(
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="START", help="Where to begin: an offset, an instant (2026-01-31T12:00:00Z), or `first`."
        ),
    ] = "first",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, metavar="NUMBER", help="How many at most.")] = 100_000,
    as_json: AsJson = False,
) -> None:
    """Print the audit record, oldest first."""
    with (
        api() as client,
        client.stream("/events/replay", params={"from": start, "limit": limit}) as answer,
    ):
        for line in answer.iter_lines():
            if line:
                _print_record(line, as_json=as_json)


def _tail(client: Client, *, as_json: bool) -> None:
    """A service that restarts ends the stream: connect again, for a bounded time."""
    heard_at_s = time.monotonic()
    is_first = True
    while True:
        try:
            with client.stream("/events", idle_s=IDLE_S) as answer:
                is_first = False
                for event in sse.events(answer.iter_lines()):
                    heard_at_s = time.monotonic()
                    _print_event(event, as_json=as_json)
                heard_at_s = time.monotonic()
        except Unreachable:
            if is_first or time.monotonic() - heard_at_s > AWAY_MAX_S:
                raise
        except Refused as error:
            if is_first or error.status < 500:  # noqa: PLR2004 - a refusal, not a service that restarts
                raise
        time.sleep(RETRY_S)


def _print_event(event: sse.Event, *, as_json: bool) -> None:
    task = json.loads(event.data)
    if as_json:
        output.print_json_line(task)
    else:
        said = [task.get("state_since"), task.get("task_id"), task.get("state"), task.get("why")]
        output.print_line("  ".join(str(each) for each in said if each))


def _print_record(line: str, *, as_json: bool) -> None:
    record = json.loads(line)
    if as_json:
        output.print_json_line(record)
        return
    event = record.get("event") or {}
    said = [record.get("offset"), event.get("time"), event.get("type"), event.get("subject")]
    output.print_line(" ".join(str(each) for each in said if each is not None))
