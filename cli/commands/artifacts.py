"""malbox artifacts: the bytes that an analysis found, saved to disk, checked, and never run."""

import contextlib
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from cli import output
from cli.client import Client
from cli.commands.shared import AsJson, TaskArgument, api
from cli.errors import Refused, Unreachable, Usage

app = typer.Typer(help="Artifacts: list, get.", no_args_is_help=True)
PAGES_MAX = 100
PAGE_ITEMS = 500
NAME_MAX_CHARS = 100
TO_STDOUT = "-"


@app.command("list")
def list_artifacts(task: TaskArgument, as_json: AsJson = False) -> None:
    """List what an analysis found, with the ids to get it by."""
    with api() as client:
        items = list(_artifacts(client, task))
    if as_json:
        output.print_json({"items": items})
        return
    output.print_table(
        ("result", "name", "plugin", "bytes", "sha256"),
        (
            (each.get("result_id"), each.get("name"), each.get("plugin"), each.get("size_bytes"), each.get("sha256"))
            for each in items
        ),
        empty="The task has no artifacts.",
    )


@app.command("get")
def get(
    which: Annotated[str, typer.Argument(metavar="TASK|RESULT", help="All of a task (tsk_…), or one result (res_…).")],
    into: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Directory for a task; file, or - for standard output, for a result."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download artifacts. They may be malicious: they are saved without the right to execute."""
    with api() as client:
        if which.startswith("tsk_"):
            saved = _get_all(client, which, into or Path(f"{which}-artifacts"))
        elif which.startswith("res_"):
            saved = [_get_one(client, which, into or Path(which))]
        else:
            raise Usage(
                f"{which!r} is neither a task nor a result.", remedy="Give tsk_… or res_…; see malbox artifacts list."
            )
    if as_json:
        output.print_json({"items": saved})
    elif str(into) != TO_STDOUT:
        for each in saved:
            output.print_line(each["path"])


def _get_all(client: Client, task_id: str, directory: Path) -> list[dict[str, Any]]:
    with _disk_faults(directory):
        directory.mkdir(parents=True, exist_ok=True)
    return [
        _get_one(client, each["result_id"], directory / file_name(each["result_id"], str(each.get("name", ""))))
        for each in _artifacts(client, task_id)
    ]


def _get_one(client: Client, result_id: str, target: Path) -> dict[str, Any]:
    if str(target) == TO_STDOUT:
        digest, size_bytes = _download(client, result_id, sys.stdout.buffer)
    else:
        digest, size_bytes = _save(client, result_id, target)
    return {"result_id": result_id, "path": str(target), "sha256": digest, "size_bytes": size_bytes}


def _save(client: Client, result_id: str, target: Path) -> tuple[str, int]:
    """The file is whole or absent, and nothing that was there is overwritten."""
    with _disk_faults(target):
        if target.exists():
            raise Usage(f"{target} exists already.", remedy="Name another file with --output.")
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".malbox-") as part:
            outcome = _download(client, result_id, part)
            part.flush()
            os.link(part.name, target)
    return outcome


def _download(client: Client, result_id: str, to: IO[bytes]) -> tuple[str, int]:
    digest, size_bytes = hashlib.sha256(), 0
    with client.stream(f"/artifacts/{result_id}", headers={"Accept-Encoding": "identity"}) as answer:
        for chunk in answer.iter_raw():
            to.write(chunk)
            digest.update(chunk)
            size_bytes += len(chunk)
        promised = answer.headers.get("etag", "").removeprefix("W/").strip('"')
    if promised and promised != digest.hexdigest():
        raise Unreachable(
            f"{result_id} arrived damaged: its hash is {digest.hexdigest()}, not {promised}.", remedy="Try again."
        )
    return digest.hexdigest(), size_bytes


def file_name(result_id: str, name: str) -> str:
    """A file name that the sample had no say in: the id first, then what is harmless of the artifact's name."""
    harmless = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[/\\]", name)[-1]).strip("._-")
    return f"{result_id}-{harmless[-NAME_MAX_CHARS:]}" if harmless else result_id


def _artifacts(client: Client, task_id: str) -> Iterator[dict[str, Any]]:
    after: int | None = None
    for _ in range(PAGES_MAX):
        page = client.get(f"/tasks/{task_id}/artifacts", limit=PAGE_ITEMS, after=after)
        yield from output.items_of(page)
        after = page.get("next")
        if after is None:
            return
    raise Refused(f"{task_id} has more than {PAGES_MAX * PAGE_ITEMS} artifacts.", remedy="Get them one by one.")


@contextlib.contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Usage(
            f"{path} cannot be written: {error.strerror}.", remedy="Name another place with --output."
        ) from error
