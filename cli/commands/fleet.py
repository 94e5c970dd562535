"""malbox machine and malbox plugin: what there is to analyse with."""

from typing import Annotated

import typer

from cli import output
from cli.commands.shared import AsJson, api

machines = typer.Typer(help="Machines: list, show.", no_args_is_help=True)
plugins = typer.Typer(help="Plugins: list.", no_args_is_help=True)


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
def show_machine(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="Id of a machine.")], as_json: AsJson = False
) -> None:
    """Show one machine with its latest history."""
    with api() as client:
        content = client.get(f"/machines/{machine}")
    if as_json:
        output.print_json(content)
        return
    output.print_fields((name, value) for name, value in content.items() if name != "history")
    output.out.print()
    output.print_table(
        ("at", "event", "state", "epoch"),
        (
            (entry.get("at"), entry.get("event"), entry.get("state"), entry.get("epoch"))
            for entry in output.items_of(content.get("history"))
        ),
        empty="No history.",
    )


@plugins.command("list")
def list_plugins(as_json: AsJson = False) -> None:
    """List the plugins, and the folders that were rejected with the reason."""
    with api() as client:
        page = client.get("/plugins")
    if as_json:
        output.print_json(page)
        return
    output.print_table(
        ("plugin", "version", "kind", "stages", "state", "description"),
        (
            (
                each.get("name"),
                each.get("version"),
                each.get("kind"),
                ", ".join(each.get("stages") or []),
                each.get("state"),
                each.get("description") or each.get("reason"),
            )
            for each in output.items_of(page)
        ),
        empty="There are no plugins.",
    )
