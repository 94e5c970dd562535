"""docs/reference/cli.md, made from the commands themselves: `python -m cli.reference > docs/reference/cli.md`."""

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from cli.app import app

HEAD = """# The command `malbox`

Generated from the commands by `python -m cli.reference`; a test holds it to them.

Results go to standard output, everything else to standard error. Exit status: 0 done, 1 a task, or the trial of a
plugin, failed, 2 wrong usage, 3 not reachable, 4 refused, 130 interrupted. A task that was waited for and ended
otherwise: 5 timed out, 6 its guest was lost, 7 cancelled, 8 no machine could run it.

Malbox is found through `MALBOX_URL` and `MALBOX_TOKEN`, else through the state directory that `MALBOX_STATE` names,
else through `.malbox` in the current directory.
"""


def reference() -> str:
    """The page."""
    return HEAD + "".join(_sections(typer.main.get_command(app), "malbox"))


def _sections(command: Any, path: str) -> Iterator[str]:
    commands = getattr(command, "commands", None)
    if commands is None:
        yield _section(command, path)
        return
    for name, inner in commands.items():
        yield from _sections(inner, f"{path} {name}")


def _section(command: Any, path: str) -> str:
    shown = [parameter for parameter in command.params if parameter.name != "help"]
    arguments = [_metavar(each) for each in shown if each.param_type_name == "argument"]
    options = [each for each in shown if each.param_type_name == "option"]
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *arguments])
    rows = [f"| `{_metavar(each)}` | {_cell(each.help)} |" for each in shown if each.param_type_name == "argument"]
    rows += [f"| `{_option(each)}` | {_cell(each.help)}{_default(each)} |" for each in options]
    table = "\n".join(["| | |", "|---|---|", *rows])
    return f"\n## {path}\n\n{inspect.cleandoc(command.help or '')}\n\n```\n{usage}\n```\n\n{table}\n"


def _option(parameter: Any) -> str:
    names = ", ".join(parameter.opts)
    if parameter.is_flag:
        return names
    return f"{names} {parameter.metavar}" + (" …" if parameter.multiple else "")


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _default(parameter: Any) -> str:
    default = parameter.default
    return "" if default in (None, "", False) or callable(default) or parameter.multiple else f" Default: `{default}`."


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
