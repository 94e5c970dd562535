"""Traces of how the file was built, and code that runs before its entry point."""

from typing import Any

from malbox.sdk.executables import Executable, first, name_of
from malbox.sdk.findings import Findings

TOOLS_MAX = 100
DEBUG_ENTRIES_MAX = 32
CALLBACKS_MAX = 64


def build_traces(executable: Executable, findings: Findings) -> dict[str, Any]:
    """The tools of the rich header, and the files of symbols that the debug directory names."""
    binary = executable.binary
    rich = binary.rich_header
    tools = first(rich.entries, TOOLS_MAX, findings) if rich else ()
    symbols = [
        name_of(entry.filename)
        for entry in first(binary.debug, DEBUG_ENTRIES_MAX, findings)
        if getattr(entry, "filename", None)
    ]
    for path in symbols:
        findings.indicator("path", path, "file of symbols that the debug directory names")
    return {
        "symbol_files": symbols,
        "rich_key": f"{rich.key:08x}" if rich else None,
        "tools": [f"{int(one.id)}.{int(one.build_id)} x{int(one.count)}" for one in tools],
    }


def tls_callbacks(executable: Executable, findings: Findings) -> list[int]:
    """Addresses of functions that run before the entry point."""
    tls = executable.binary.tls
    if tls is None:
        return []
    callbacks = [int(one) for one in first(tls.callbacks, CALLBACKS_MAX, findings)]
    if callbacks:
        findings.trait("runs_before_its_entry_point", f"{len(callbacks)} TLS callbacks, the first at {callbacks[0]:#x}")
    return callbacks
