"""What the commands have in common: the --json option and the way to the API."""

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

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
