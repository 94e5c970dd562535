"""The metadata of a .NET assembly, by dnfile. Tables are bounded by the bytes that are read at all."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import dnfile

from malbox.sdk.findings import printable

READ_MAX_BYTES = 16 * 1024 * 1024
REFERENCES_MAX = 200
MEMBERS_MAX = 1000
RESOURCES_MAX = 200
CLR_DIRECTORY = 14
NATIVE_ENTRY = 0x10  # ECMA-335 II.25.3.3.1
ILONLY = 0x1


def is_dotnet(binary: Any) -> bool:
    """Whether the file has a CLR header."""
    directories = list(binary.data_directories)
    return len(directories) > CLR_DIRECTORY and int(directories[CLR_DIRECTORY].rva) != 0


def assembly(content: bytes) -> dict[str, Any]:
    """Name, version, references and members. What is damaged is a problem of the result."""
    is_cut = len(content) > READ_MAX_BYTES
    problems = [f"only the first {READ_MAX_BYTES} bytes were read"] if is_cut else []
    said: dict[str, Any] = {}
    try:
        image = dnfile.dnPE(data=content[:READ_MAX_BYTES], clr_lazy_load=True)  # type: ignore[no-untyped-call]
        said = _described(image.net)
    except Exception as error:  # noqa: BLE001 - the library meets damaged tables with whatever comes
        problems.append(printable(f"{type(error).__name__}: {error}"))
    return {**said, "problems": problems, "is_truncated": is_cut}


def _described(net: Any) -> dict[str, Any]:
    if net is None or net.mdtables is None:
        raise ValueError("the metadata cannot be found")
    tables = net.mdtables
    flags = int(net.struct.Flags)
    return {
        "assembly": next((_versioned(row) for row in _rows(tables.Assembly, 1)), None),
        "module": next((_text(row.Name) for row in _rows(tables.Module, 1)), None),
        "runtime": printable((net.metadata.struct.Version or b"").rstrip(b"\0")) if net.metadata else None,
        "is_native_mixed": not flags & ILONLY or bool(flags & NATIVE_ENTRY),
        "references": [_versioned(row) for row in _rows(tables.AssemblyRef, REFERENCES_MAX)],
        "native_libraries": [_text(row.Name) for row in _rows(tables.ModuleRef, REFERENCES_MAX)],
        "types": [_dotted(row.TypeNamespace, row.TypeName) for row in _rows(tables.TypeDef, MEMBERS_MAX)],
        "members_used": [_text(row.Name) for row in _rows(tables.MemberRef, MEMBERS_MAX)],
        "resources": [_text(row.Name) for row in _rows(tables.ManifestResource, RESOURCES_MAX)],
    }


def _rows(table: Iterable[Any] | None, limit: int) -> Iterator[Any]:
    return islice(iter(table or ()), limit)


def _versioned(row: Any) -> str:
    numbers = (row.MajorVersion, row.MinorVersion, row.BuildNumber, row.RevisionNumber)
    return f"{_text(row.Name)} {'.'.join(str(int(number)) for number in numbers)}"


def _dotted(namespace: Any, name: Any) -> str:
    return f"{_text(namespace)}.{_text(name)}".lstrip(".")


def _text(value: Any) -> str:
    return printable(str(value or ""))
