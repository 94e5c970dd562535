"""The facts that capability rules ask about, out of the results of other plugins. Standard library only, but the SDK.

The results were made of hostile bytes: what does not have the form that it should is passed over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malbox.sdk.rules import Fact

VOCABULARY: Mapping[str, Mapping[str, type]] = {
    "import": {"name": str, "plain": str, "library": str, "format": str},
    "export": {"name": str, "format": str},
    "library": {"name": str, "format": str},
    "section": {"name": str, "format": str},
    "text": {"text": str, "format": str},
    "layer": {"text": str, "language": str},
    "reference": {"name": str},
    "member": {"name": str},
    "entitlement": {"name": str},
}
"""Kind of fact -> its fields.

`format` is `pe`, `elf`, `macho`, `script` or empty; `plain` is a name in lower case, without the A or W for the kind of
characters, and without underscores before it. `text` is a string in the bytes, `layer` a line of what a script unfolds
to, `reference` and `member` are what a .NET assembly uses of others.
"""
LINE_MAX_BYTES = 4096
_FORMATS = ("pe", "elf", "macho")


@dataclass(frozen=True)
class Read:
    """What the other plugins found: their JSON by the result's name, and the list of strings. `is_cut`: not all."""

    documents: Mapping[str, Any]
    strings: Path | None = None
    is_cut: bool = False


def format_of(read: Read) -> str:
    """What kind of file it is."""
    known = next((name for name in _FORMATS if isinstance(read.documents.get(name), dict)), "")
    return known or ("script" if "scripts" in read.documents else "")


def facts_of(read: Read) -> Iterator[Fact]:
    """Every fact: the structure first, then the texts."""
    for name, facts in (("pe", _of_pe), ("elf", _of_elf), ("macho", _of_macho), ("dotnet", _of_dotnet)):
        yield from facts(_dict(read.documents.get(name)))
    yield from _of_scripts(_dict(read.documents.get("scripts")))
    if read.strings is not None:
        yield from _of_strings(read.strings, format_of(read))


def plain(name: str) -> str:
    """The name as a rule has it, whoever calls it how."""
    short = name[:-1] if len(name) > 1 and name[-1] in "AW" and not name[-2].isupper() else name
    return short.lower().lstrip("_")


def _of_pe(document: dict[str, Any]) -> Iterator[Fact]:
    for at, library in enumerate(_rows(document.get("imports"))):
        where, name = f"/imports/{at}", str(library.get("library", "")).lower()
        yield _fact("library", "pe", f"{where}/library", name=name, format="pe")
        for number, function in enumerate(_texts(library.get("functions"))):
            yield _import(function, "pe", f"{where}/functions/{number}", name)
    for number, function in enumerate(_texts(_dict(document.get("exports")).get("functions"))):
        yield _fact("export", "pe", f"/exports/functions/{number}", name=function, format="pe")
    yield from _sections(document, "pe", "sections")


def _of_elf(document: dict[str, Any]) -> Iterator[Fact]:
    for number, function in enumerate(_texts(document.get("imports"))):
        yield _import(function, "elf", f"/imports/{number}", "")
    for number, function in enumerate(_texts(document.get("exports"))):
        yield _fact("export", "elf", f"/exports/{number}", name=function, format="elf")
    for number, name in enumerate(_texts(document.get("libraries"))):
        yield _fact("library", "elf", f"/libraries/{number}", name=name.lower(), format="elf")
    yield from _sections(document, "elf", "sections")


def _of_macho(document: dict[str, Any]) -> Iterator[Fact]:
    for at, row in enumerate(_rows(document.get("functions"))):
        for number, function in enumerate(_texts(row.get("names") if row.get("way") == "in" else None)):
            yield _import(function, "macho", f"/functions/{at}/names/{number}", "")
    for number, row in enumerate(_rows(document.get("libraries"))):
        yield _fact("library", "macho", f"/libraries/{number}/name", name=str(row.get("name", "")), format="macho")
    for number, row in enumerate(_rows(document.get("entitlements"))):
        yield _fact("entitlement", "macho", f"/entitlements/{number}/name", name=str(row.get("name", "")))


def _of_dotnet(document: dict[str, Any]) -> Iterator[Fact]:
    for key, kind in (("references", "reference"), ("members_used", "member")):
        for number, name in enumerate(_texts(document.get(key))):
            yield Fact(kind, {"name": name}, {"plugin": "pe", "result": "dotnet", "pointer": f"/{key}/{number}"})


def _of_scripts(document: dict[str, Any]) -> Iterator[Fact]:
    for at, layer in enumerate(_rows(document.get("layers"))):
        language = str(layer.get("language", ""))
        for line in str(layer.get("text", "")).splitlines():
            yield _fact("layer", "scripts", f"/layers/{at}/text", text=line, language=language)


def _of_strings(path: Path, kind: str) -> Iterator[Fact]:
    """The lines of the list: the offset in the sample in hexadecimal, a letter for the encoding, the text."""
    with path.open("rb") as file:
        while line := file.readline(LINE_MAX_BYTES):
            offset, _, rest = line.rstrip(b"\n").decode("ascii", "replace").partition(" ")
            place = {"plugin": "strings", "result": "list", "offset": int(offset, 16) if _is_hex(offset) else 0}
            yield Fact("text", {"text": rest[2:], "format": kind}, place)


def _sections(document: dict[str, Any], plugin: str, key: str) -> Iterator[Fact]:
    for number, row in enumerate(_rows(document.get(key))):
        yield _fact("section", plugin, f"/{key}/{number}/name", name=str(row.get("name", "")), format=plugin)


def _import(name: str, plugin: str, pointer: str, library: str) -> Fact:
    return _fact("import", plugin, pointer, name=name, plain=plain(name), library=library, format=plugin)


def _fact(kind: str, plugin: str, pointer: str, **fields: str) -> Fact:
    return Fact(kind, fields, {"plugin": plugin, "result": plugin, "pointer": pointer})


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rows(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _is_hex(text: str) -> bool:
    return 0 < len(text) <= 16 and all(char in "0123456789abcdef" for char in text)  # noqa: PLR2004 - 64 bits
