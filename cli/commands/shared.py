"""What the commands have in common: the --json option, the way to the API, and the listings that come from there."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from cli import output
from cli.client import Client
from cli.connection import resolve

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the record.")]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="Id of a task: tsk_…")]


@contextlib.contextmanager
def api() -> Iterator[Client]:
    """The API of the installation in use. Raises Unreachable, Usage."""
    client = Client(resolve())
    try:
        yield client
    finally:
        client.close()


def show_page(
    page: Any, columns: Mapping[str, output.Column], *, empty: str, as_json: bool, more: str | None = None
) -> None:
    """The page as it came, for programs, or as a table; then the command that shows the next page, if there is one."""
    if as_json:
        output.print_json(page)
        return
    output.print_items(output.items_of(page), columns, empty=empty)
    if more is not None and page.get("next"):
        output.say(f"More: {more} {page['next']}")
