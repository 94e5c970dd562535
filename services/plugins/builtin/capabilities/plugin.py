"""What a program can do: rules over the facts that the other static plugins found. Reads no byte of the sample."""

from itertools import islice
from pathlib import Path
from typing import Any

from malbox.sdk import Context, PluginSkipped
from malbox.sdk.rules import Matching, Prepared, read_rules

from .facts import VOCABULARY, Read, facts_of, format_of

RULES_DIR = Path(__file__).parent / "rules"
PLATFORMS = {"pe": "windows", "elf": "linux", "macho": "macos"}
INPUTS = ("pe", "dotnet", "elf", "macho", "scripts", "strings")
"""Results that are read, by name. The facts of `strings` stand in its list; the result says whether that is whole."""
INPUT_MAX_BYTES = 16 * 1024 * 1024
FACTS_MAX = 400_000


def run(context: Context) -> None:
    """The result `capabilities` is emitted. Raises PluginSkipped when no plugin found anything before."""
    read = _read(context)
    if not read.documents and read.strings is None:
        raise PluginSkipped("no other plugin read anything of the sample")
    matching = Matching(RULES, PLATFORMS.get(format_of(read)))
    facts = facts_of(read)
    for fact in islice(facts, FACTS_MAX):
        matching.feed(fact)
    if read.is_cut or next(facts, None) is not None:
        matching.cut()
    context.emit_json("capabilities", matching.result())


def _read(context: Context) -> Read:
    found: dict[str, Any] = {}
    is_cut = False
    for name in INPUTS:
        given = context.input("pe" if name == "dotnet" else name, name)
        if given is not None and given.path.stat().st_size <= INPUT_MAX_BYTES:
            found[name] = given.read_json()
            is_cut |= isinstance(found[name], dict) and found[name].get("is_truncated") is True
        else:
            is_cut |= given is not None
    strings = context.input("strings", "list")
    return Read(found, strings.path if strings is not None else None, is_cut=is_cut)


RULES = Prepared(read_rules(RULES_DIR, VOCABULARY))  # once, before there is a sample
