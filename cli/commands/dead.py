"""malbox dead: messages that no service could handle, and what operators decide about them."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from cli import output
from cli.client import Client
from cli.commands.shared import AsJson, Reason, api
from cli.errors import Unreachable, Usage
from deploy.local.state import SERVICES

app = typer.Typer(help="Messages that no service could handle: list, show, replay, drop.", no_args_is_help=True)
PAGE = 200
TOTAL_MAX = 10_000

Message = Annotated[str, typer.Argument(metavar="MESSAGE", help="Id of a parked message: <service>-…")]
Messages = Annotated[list[str], typer.Argument(metavar="MESSAGE…", help="Ids of parked messages.")]


@app.command("list")
def list_dead(
    show_all: Annotated[bool, typer.Option("--all", help="Those that were replayed or dropped as well.")] = False,
    service: Annotated[str | None, typer.Option(metavar="SERVICE", help="Only of this service.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the messages that wait for a decision, with why they could not be handled, the latest first."""
    if service is not None and service not in SERVICES:
        raise Usage(f"There is no service {service!r}.", remedy=f"One of {', '.join(SERVICES)}.")
    items: list[dict[str, Any]] = []
    absent: list[Unreachable] = []
    with api() as client:
        for name in SERVICES if service is None else (service,):
            try:
                items += _all(client, name, None if show_all else "parked")
            except Unreachable as error:
                absent.append(error)
                output.say(f"{name} does not answer; what it parked is not listed.")
    items.sort(key=lambda each: str(each.get("parked_at")), reverse=True)
    if as_json:
        output.print_json({"items": items})
    else:
        _print(items, decided=show_all)
    if absent:
        raise absent[0]


@app.command("show")
def show_dead(message: Message, as_json: AsJson = False) -> None:
    """Show one message: what it says, why it could not be handled, who decided what about it."""
    with api() as client:
        content = client.get(_path(message))
    if as_json:
        output.print_json(content)
        return
    output.print_fields((name, value) for name, value in content.items() if name not in ("body", "actions"))
    output.out.print()
    output.print_line(content.get("body"))
    output.out.print()
    columns = {"at": "at", "who": "who", "action": "action", "why": "reason"}
    output.print_items(output.items_of(content.get("actions")), columns, empty="Nobody has decided about it.")


@app.command("replay")
def replay(messages: Messages, reason: Reason, as_json: AsJson = False) -> None:
    """Put messages back to their queues. One that still cannot be handled comes back here, counted once more.

    Say it again where --all shows a replayed one that was not handled: the broker may have lost it. No message has its
    effect twice.
    """
    _decide(messages, "replay", reason, as_json=as_json)


@app.command("drop")
def drop(messages: Messages, reason: Reason, as_json: AsJson = False) -> None:
    """Give messages up for good. What they said stays on record."""
    _decide(messages, "drop", reason, as_json=as_json)


def _decide(messages: list[str], action: str, reason: str, *, as_json: bool) -> None:
    """All ids are looked at before anything is decided."""
    paths = [_path(each) for each in messages]
    with api() as client:
        done = [client.post(f"{path}/{action}", json={"reason": reason}) for path in paths]
    if as_json:
        output.print_json({"items": done})
        return
    for each in done:
        output.say(f"{each.get('id')}: {each.get('state')}.")


def _path(message: str) -> str:
    """Where the service that parked the message shows it. Raises Usage."""
    service, dash, rest = message.partition("-")
    if service not in SERVICES or not dash or not rest.isalnum():
        raise Usage(f"{message!r} is not the id of a parked message.", remedy="Take one from `malbox dead list`.")
    return f"/dead/{service}/{message}"


def _all(client: Client, service: str, state: str | None) -> list[dict[str, Any]]:
    """Every page, up to TOTAL_MAX messages."""
    items: list[dict[str, Any]] = []
    for page in _pages(client, service, state):
        items += output.items_of(page)
        if len(items) >= TOTAL_MAX:
            output.say(f"{service} has parked more than {TOTAL_MAX}; the oldest are not listed.")
            break
    return items


def _pages(client: Client, service: str, state: str | None) -> Iterator[Any]:
    after = None
    while True:
        page = client.get(f"/dead/{service}", state=state, limit=PAGE, after=after)
        yield page
        after = page.get("next")
        if after is None:
            return


def _print(items: list[dict[str, Any]], *, decided: bool) -> None:
    columns = ["message", "type", "subject", "parked", "times", "why"]
    if decided:
        columns += ["state", "handled", "by", "because"]
    output.print_table(
        columns,
        (
            (
                *(each.get(name) for name in ("id", "type", "subject", "parked_at", "times", "reason")),
                *(
                    (each.get("state"), _handled(each), each.get("decided_by"), each.get("decided_why"))
                    if decided
                    else ()
                ),
            )
            for each in items
        ),
        empty="No message waits for a decision." if not decided else "No message was ever parked.",
    )


def _handled(item: dict[str, Any]) -> str:
    """Of a message that was replayed, whether it was handled; nothing where nobody knows."""
    is_handled = item.get("is_handled")
    return "" if is_handled is None else "yes" if is_handled else "not yet"
