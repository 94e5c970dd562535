"""malbox up, down, status and doctor: Malbox on this machine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer

from cli import output
from cli.commands.shared import AsJson
from cli.errors import DONE, REFUSED, UNREACHABLE, Refused

T = TypeVar("T")
SIGNS = {"ok": "ok", "note": "note", "fault": "FAULT"}


def up(as_json: AsJson = False) -> None:
    """Start Malbox on this machine; what runs already is left alone."""
    from deploy.local.up import up as start  # noqa: PLC0415 - a client of a distant Malbox needs no deployment

    started = _locally(lambda state: start(state, _progress))
    if as_json:
        output.print_json(_as_mapping(started))
    else:
        output.say(f"Malbox is ready at {started.url} after {started.took_s:.1f} s.")


def down(as_json: AsJson = False) -> None:
    """Stop Malbox on this machine. Data, settings and images stay."""
    from deploy.local.down import down as stop  # noqa: PLC0415

    stopped = _locally(lambda state: stop(state, _progress))
    if as_json:
        output.print_json(_as_mapping(stopped))
    else:
        output.say("Malbox is stopped." if stopped.was_running else "Malbox was not running.")


def status(as_json: AsJson = False) -> None:
    """Show what runs and what does not. Exits 3 unless everything is ready."""
    from deploy.local.status import status as look  # noqa: PLC0415

    found = _locally(look)
    if as_json:
        output.print_json({**_as_mapping(found), "is_ready": found.is_ready})
    else:
        output.say(f"{found.url}   {found.state_dir}")
        output.print_table(
            ("part", "state", "pid", "for", "detail"),
            (
                (part.name, "ready" if part.is_ready else "NOT READY", part.pid, _age(part.since_s), part.detail)
                for part in found.parts
            ),
            empty="Nothing is installed.",
        )
    raise typer.Exit(DONE if found.is_ready else UNREACHABLE)


def doctor(as_json: AsJson = False) -> None:
    """Check this machine; every finding has a remedy. Exits 4 when there is a fault."""
    from deploy.local.doctor import doctor as examine  # noqa: PLC0415

    findings = _locally(examine)
    if as_json:
        output.print_json({"findings": [_as_mapping(finding) for finding in findings]})
    else:
        output.print_table(
            ("", "what", "found", "remedy"),
            ((SIGNS.get(one.level, one.level), one.what, one.found, one.remedy) for one in findings),
            empty="Nothing was found.",
        )
    raise typer.Exit(REFUSED if any(one.level == "fault" for one in findings) else DONE)


def _locally(act: Callable[[Any], T]) -> T:
    """What the act returns, given the state of the checkout here. Raises Refused with the deployment's own words."""
    from deploy.local.state import DeployError, locate  # noqa: PLC0415

    try:
        return act(locate(Path.cwd()))
    except DeployError as error:
        raise Refused(str(error), remedy="Look at `malbox doctor`.") from error


def _progress(line: str) -> None:
    output.say(f"  {line}")


def _as_mapping(value: Any) -> dict[str, Any]:
    pairs = dataclasses.asdict(value).items()
    return {name: str(each) if isinstance(each, Path) else each for name, each in pairs}


def _age(since_s: float | None) -> str:
    return "" if since_s is None else f"{since_s:.0f} s"
