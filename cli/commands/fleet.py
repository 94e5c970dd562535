"""malbox machine: what there is to analyse with."""

from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli import output
from cli.commands.shared import AsJson, Reason, api

machines = typer.Typer(
    help="Machines: list, show, history, drain, return, quarantine, rebuild, retire.", no_args_is_help=True
)


HISTORY_MAX = 200
Machine = Annotated[str, typer.Argument(metavar="MACHINE", help="Id of a machine.")]


@machines.command("list")
def list_machines(as_json: AsJson = False) -> None:
    """List the machines and what each is doing."""
    with api() as client:
        page = client.get("/machines")
    if as_json:
        output.print_json(page)
        return
    output.print_table(
        ("machine", "profile", "state", "since", "why"),
        (
            (each.get("machine_id"), each.get("profile"), each.get("state"), each.get("since"), each.get("why"))
            for each in output.items_of(page)
        ),
        empty="There are no machines.",
    )


@machines.command("show")
def show_machine(machine: Machine, as_json: AsJson = False) -> None:
    """Show one machine with its latest history."""
    with api() as client:
        content = client.get(_path(machine))
    if as_json:
        output.print_json(content)
        return
    output.print_fields((name, value) for name, value in content.items() if name != "history")
    output.out.print()
    _print_history(output.items_of(content.get("history")))


@machines.command("history")
def show_history(
    machine: Machine,
    limit: Annotated[int, typer.Option(min=1, max=HISTORY_MAX, metavar="NUMBER", help="How many.")] = 50,
    before: Annotated[
        int | None, typer.Option(min=1, metavar="NUMBER", help="Go on before this one: `next` of the page before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened to a machine, the latest first, with who decided what and why."""
    with api() as client:
        page = client.get(f"{_path(machine)}/history", limit=limit, before=before)
    if as_json:
        output.print_json(page)
        return
    _print_history(output.items_of(page))
    if page.get("next"):
        output.say(f"More: malbox machine history {machine} --before {page['next']}")


@machines.command("drain")
def drain(machine: Machine, reason: Reason, as_json: AsJson = False) -> None:
    """Take a machine out of the pool for maintenance. The task that it runs ends first, and it is cleaned."""
    _decide(machine, "drain", reason, as_json=as_json)


@machines.command("return")
def give_back(machine: Machine, reason: Reason, as_json: AsJson = False) -> None:
    """Give a machine back from maintenance or quarantine. It is cleaned and verified before it is leased."""
    _decide(machine, "return", reason, as_json=as_json)


@machines.command("quarantine")
def quarantine(machine: Machine, reason: Reason, as_json: AsJson = False) -> None:
    """Stop trusting a machine at once, whatever it does. It stays out of the pool until somebody decides."""
    _decide(machine, "quarantine", reason, as_json=as_json)


@machines.command("rebuild")
def rebuild(machine: Machine, reason: Reason, as_json: AsJson = False) -> None:
    """Build a machine again, from nothing."""
    _decide(machine, "rebuild", reason, as_json=as_json)


@machines.command("retire")
def retire(machine: Machine, reason: Reason, as_json: AsJson = False) -> None:
    """Give a machine up for good."""
    _decide(machine, "retire", reason, as_json=as_json)


def _decide(machine: str, action: str, reason: str, *, as_json: bool) -> None:
    with api() as client:
        content = client.post(f"{_path(machine)}/{action}", json={"reason": reason})
    if as_json:
        output.print_json(content)
        return
    later = ", and is drained when nobody has it" if content.get("is_drain_requested") else ""
    output.say(f"{machine} is {content.get('state')}{later}. Follow it: malbox machine show {machine}")


def _path(machine: str) -> str:
    """Whatever was typed is one name in the path, and no way to another one."""
    return f"/machines/{quote(machine, safe='')}"


def _print_history(entries: Iterable[dict[str, Any]]) -> None:
    output.print_table(
        ("at", "event", "state", "epoch", "by", "why"),
        (
            (
                *(entry.get(name) for name in ("at", "event", "state", "epoch")),
                *((entry.get("details") or {}).get(name, "") for name in ("by", "reason")),
            )
            for entry in entries
        ),
        empty="No history.",
    )
