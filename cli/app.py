"""The command `malbox`: every command in one place, and every failure with its exit code."""

import sys

import typer

from cli import output
from cli.commands import artifacts, dead, events, fleet, local, plugin, projections, report, submit, task
from cli.errors import INTERRUPTED, CliError

app = typer.Typer(
    name="malbox",
    help="Runs a suspicious file in a disposable virtual machine and explains what it did.",
    epilog="Exit status: 0 done, 1 a task or a trial of a plugin failed, 2 wrong usage, 3 not reachable, 4 refused.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (local.up, local.down, local.status, local.doctor, submit.submit, report.report):
    app.command()(command)
app.add_typer(task.app, name="task")
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(fleet.machines, name="machine")
app.add_typer(plugin.app, name="plugin")
app.add_typer(events.app, name="events")
app.add_typer(dead.app, name="dead")
app.add_typer(projections.app, name="projections")


def main(arguments: list[str] | None = None) -> int:
    """One command; its exit status."""
    try:
        app(arguments, prog_name="malbox")
    except CliError as error:
        output.show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def run() -> None:
    """For the launcher: ends the process with the command's exit status."""
    sys.exit(main())
