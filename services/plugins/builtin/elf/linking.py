"""What the file is linked with: its loader, the libraries and where they are looked for, functions in and out."""

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import lief

from malbox.sdk.executables import Executable, first, name_of
from malbox.sdk.findings import Findings

NAMES_MAX = 2000
PATHS_MAX = 100
LOADER = re.compile(r"/(usr/)?(lib|lib32|lib64|libx32|libexec)/([\w-]{1,40}/)?ld[\w.-]{0,60}|/system/bin/linker(64)?")
WRITABLE_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/home", ".")  # noqa: S108 - where a sample looks, not we
SEARCH_TAGS = (lief.ELF.DynamicEntry.TAG.RPATH, lief.ELF.DynamicEntry.TAG.RUNPATH)


def linking(executable: Executable, findings: Findings) -> dict[str, Any]:
    """The loader, the libraries, and the functions."""
    binary = executable.binary
    loader = name_of(binary.interpreter) if binary.has_interpreter else None
    if loader is not None and not LOADER.fullmatch(loader):
        findings.trait("unusual_loader", loader)
    imported = [name_of(one.name) for one in first(binary.imported_functions, NAMES_MAX, findings)]
    return {
        "interpreter": loader,
        "is_static": not binary.has_interpreter,
        "libraries": [name_of(one) for one in first(binary.libraries, NAMES_MAX, findings)],
        "library_paths": _library_paths(binary, findings),
        "imports": imported,
        "import_hash": import_hash(imported),
        "exports": [name_of(one.name) for one in first(binary.exported_functions, NAMES_MAX, findings)],
    }


def import_hash(names: Iterable[str]) -> str | None:
    """MD5 over the names in lower case, each once, sorted, with commas between: alike for builds of the same source."""
    known = sorted({name.lower() for name in names if name})
    return hashlib.md5(",".join(known).encode(), usedforsecurity=False).hexdigest() if known else None


def _library_paths(binary: Any, findings: Findings) -> list[str]:
    """Where the loader looks before the system's places: DT_RPATH and DT_RUNPATH."""
    texts = [
        one.rpath if one.tag == SEARCH_TAGS[0] else one.runpath
        for one in binary.dynamic_entries
        if one.tag in SEARCH_TAGS
    ]
    paths = [name_of(path) for text in texts for path in text.split(":")[:PATHS_MAX]][:PATHS_MAX]
    for path in paths:
        if not path.startswith(("/", "$")) or path.startswith(WRITABLE_PLACES):
            findings.trait("loads_from_writable_places", path or "the working directory")
    return paths
