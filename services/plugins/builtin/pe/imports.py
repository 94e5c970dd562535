"""Imported and exported functions, and what sets of imports are for."""

from typing import Any

from malbox.sdk.executables import Executable, first, name_of
from malbox.sdk.findings import Findings

LIBRARIES_MAX = 200
FUNCTIONS_MAX = 4000
EXPORTS_MAX = 2000
FEW_FUNCTIONS = 8
WRITES = ("writeprocessmemory", "ntwritevirtualmemory", "zwwritevirtualmemory")
PURPOSES: dict[str, tuple[tuple[str, ...], ...]] = {
    "imports_process_injection": (
        ("virtualallocex", "ntallocatevirtualmemory", "zwallocatevirtualmemory", "ntmapviewofsection"),
        (*WRITES, "ntmapviewofsection"),
        ("createremotethread", "createremotethreadex", "rtlcreateuserthread", "ntcreatethreadex", "queueuserapc"),
    ),
    "imports_process_hollowing": (
        ("ntunmapviewofsection", "zwunmapviewofsection"),
        WRITES,
        ("setthreadcontext", "ntsetcontextthread"),
    ),
    "imports_keyboard_capture": (
        ("setwindowshookex", "getasynckeystate"),
        ("getkeynametext", "mapvirtualkey", "getkeyboardstate"),
    ),
    "imports_memory_dump": (("minidumpwritedump",),),
    "imports_stored_passwords": (("cryptunprotectdata", "credenumerate", "vaultenumerateitems"),),
    "imports_token_theft": (
        ("duplicatetokenex", "impersonateloggedonuser"),
        ("createprocesswithtoken", "createprocessasuser"),
    ),
    "imports_download": (("urldownloadtofile", "urldownloadtocachefile"),),
    "imports_service_creation": (("createservice",), ("startservice",)),
    "imports_debugger_checks": (
        ("checkremotedebuggerpresent", "ntqueryinformationprocess", "zwqueryinformationprocess"),
        ("isdebuggerpresent", "outputdebugstring", "ntsetinformationthread", "zwsetinformationthread"),
    ),
}
"""Trait -> one function of each of these groups. Names in lower case, without the A or W for the kind of characters."""
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
    by_plain = {plain(name): name for name in names}
    for trait, groups in PURPOSES.items():
        used = [next((by_plain[one] for one in group if one in by_plain), None) for group in groups]
        if all(used):
            findings.trait(trait, ", ".join(dict.fromkeys(name for name in used if name)))
    has_both = not LOADERS.isdisjoint(by_plain) and not RESOLVERS.isdisjoint(by_plain)
    if has_both and len(names) <= FEW_FUNCTIONS:
        findings.trait("resolves_imports_itself", f"imports {len(names)} functions only: {', '.join(names)}")
