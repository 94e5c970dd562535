"""Imported and exported functions. What sets of them are for, the rules of `capabilities` say."""

from typing import Any

from malbox.sdk.executables import Executable, first, name_of
from malbox.sdk.findings import Findings

LIBRARIES_MAX = 200
FUNCTIONS_MAX = 4000
EXPORTS_MAX = 2000
FEW_FUNCTIONS = 8
LOADERS = frozenset({"loadlibrary", "loadlibraryex", "ldrloaddll"})
RESOLVERS = frozenset({"getprocaddress", "ldrgetprocedureaddress"})


def imports(executable: Executable, findings: Findings) -> list[dict[str, Any]]:
    """Each library with its functions, those that are loaded late included."""
    binary = executable.binary
    libraries = [
        _library(one, findings, is_delayed=is_delayed)
        for is_delayed, found in ((False, binary.imports), (True, binary.delay_imports))
        for one in first(found, LIBRARIES_MAX, findings)
    ]
    names = [name for library in libraries for name in library["functions"]]
    _judge(names, findings)
    return libraries


def exports(executable: Executable, findings: Findings) -> dict[str, Any] | None:
    """The name that the file gives itself and its functions; None: it exports nothing."""
    if not executable.binary.has_exports:
        return None
    found = executable.binary.get_export()
    functions = [_exported(one) for one in first(found.entries, EXPORTS_MAX, findings)]
    return {"name": name_of(found.name), "count": len(functions), "functions": functions}


def plain(name: str) -> str:
    """The function's name without what tells the kind of characters."""
    return (name[:-1] if name[-1:] in ("A", "W") else name).lower()


def _library(library: Any, findings: Findings, *, is_delayed: bool) -> dict[str, Any]:
    functions = [
        f"#{entry.ordinal}" if entry.is_ordinal else name_of(entry.name)
        for entry in first(library.entries, FUNCTIONS_MAX, findings)
    ]
    return {
        "library": name_of(library.name),
        "count": len(functions),
        "is_delayed": is_delayed,
        "functions": functions,
    }


def _exported(entry: Any) -> str:
    name = name_of(entry.name) if entry.name else f"#{entry.ordinal}"
    if not entry.is_forwarded:
        return name
    return f"{name} -> {name_of(f'{entry.forward_information.library}.{entry.forward_information.function}')}"


def _judge(names: list[str], findings: Findings) -> None:
    by_plain = {plain(name) for name in names}
    has_both = not LOADERS.isdisjoint(by_plain) and not RESOLVERS.isdisjoint(by_plain)
    if has_both and len(names) <= FEW_FUNCTIONS:
        findings.trait("resolves_imports_itself", f"imports {len(names)} functions only: {', '.join(names)}")
