"""malbox machine: what there is to analyse with."""

from typing import Annotated
from urllib.parse import quote

import typer

from cli import output
from cli.commands.shared import AsJson, Reason, api, show_page

machines = typer.Typer(
    help="Machines: list, show, history, drain, return, quarantine, rebuild, retire.", no_args_is_help=True
)


HISTORY_MAX = 200
HISTORY = output.named("at", "event", "state", "epoch") | {
    "by": lambda entry: (entry.get("details") or {}).get("by", ""),
    "why": lambda entry: (entry.get("details") or {}).get("reason", ""),
}
NO_HISTORY = "No history."
Machine = Annotated[str, typer.Argument(metavar="MACHINE", help="Id of a machine.")]


@machines.command("list")
def list_machines(as_json: AsJson = False) -> None:
    """List the machines and what each is doing."""
    with api() as client:
        page = client.get("/machines")
    columns = {"machine": "machine_id", **output.named("profile", "state", "since", "why")}
    show_page(page, columns, empty="There are no machines.", as_json=as_json)


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
    output.print_items(output.items_of(content.get("history")), HISTORY, empty=NO_HISTORY)


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
    more = f"malbox machine history {machine} --before"
    show_page(page, HISTORY, empty=NO_HISTORY, as_json=as_json, more=more)


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
    """Stop trusting a machine at once, whatever it does. It stays out of the pool until somebody decides.

    One that is quarantined already, and would be built again by itself, is held as it is.
    """
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
