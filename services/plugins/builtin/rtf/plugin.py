"""Reads an RTF document: its objects with oletools, and the oddities that lead readers astray with patterns of ours."""

import re
from typing import Any

from oletools.rtfobj import RtfObjParser

from malbox.sdk import Context, PluginSkipped
from malbox.sdk.children import Children
from malbox.sdk.cpu_budget import cpu_budget
from malbox.sdk.file_names import is_program
from malbox.sdk.findings import Findings, printable

PROCESSOR_S = 60.0
SAMPLE_MAX_BYTES = 64 * 1024 * 1024
HEAD_BYTES = 200
OBJECTS_MAX = 200
FIELDS_MAX = 100
URLS_SEARCHED_MAX_BYTES = 1024 * 1024
DEPTH_MAX = 500  # Word's own writes stay below a hundred; its limit is not documented
_HEADER = re.compile(rb"\s*\{\\rt", re.IGNORECASE)
_EQUATION = re.compile(rb"equation\.3|(?<![0-9a-f])(?:45|65)7175(?:6174696f6e|4154494f4e)2e33", re.IGNORECASE)
_EQUATION_CLSIDS = ("0002CE02-0000-0000-C000-000000000046", "0002CE03-0000-0000-C000-000000000046")
_TEMPLATE = re.compile(rb"\{\\\*\\template\s+([^{}]{1,2000})\}", re.IGNORECASE)
_FIELD = re.compile(rb"\\fldinst\b([^\x00]{0,2000}?)\\fldrslt|\\fldinst\b([^\x00]{0,600})", re.IGNORECASE)
_DDE = re.compile(r"\bDDE(?:AUTO)?\b", re.IGNORECASE)
_REMOTE = re.compile(r"(?i)(?:https?|ftp|file):|\\\\")
_CONTROL = re.compile(rb"\\[a-z]{1,32}-?\d{0,10} ?|[{}]|\\\*", re.IGNORECASE)
_ODDITIES: dict[str, re.Pattern[bytes]] = {
    "control words inside object data": re.compile(
        rb"\\objdata[^{}\\]{0,4000}[0-9a-f\s]\\(?!bin|'|par\b)[a-z]", re.IGNORECASE
    ),
    "groups inside object data": re.compile(rb"\\objdata[0-9a-f\s]{1,4000}\{", re.IGNORECASE),
    "binary object data": re.compile(rb"\\objdata[^{}]{0,4000}\\bin0*[1-9]", re.IGNORECASE),
    "a control word longer than any": re.compile(rb"\\[a-z]{33,}", re.IGNORECASE),
    "a parameter longer than any": re.compile(rb"\\[a-z]{1,32}-?\d{11,}", re.IGNORECASE),
    "object data in runs of blanks": re.compile(rb"\\objdata[0-9a-f \t\r\n]{0,2000}?[ \t\r\n]{200}", re.IGNORECASE),
}


def run(context: Context) -> None:
    """The result `rtf` and the embedded files `children/…` are emitted."""
    with context.sample.open("rb") as stream:
        content = stream.read(SAMPLE_MAX_BYTES)
        rest = stream.read(1)
    if not _HEADER.match(content[:HEAD_BYTES]):
        raise PluginSkipped("not an RTF document")
    reading = Reading(content)
    if rest:
        reading.findings.problem(f"only the first {SAMPLE_MAX_BYTES} bytes were read")
        reading.findings.truncated()
    with cpu_budget(PROCESSOR_S) as time:
        reading.look_at_text()
        reading.look_at_objects()
    if time.is_spent:
        reading.findings.problem(f"reading ended after {PROCESSOR_S:.0f} s of processor time")
    context.emit_json("rtf", reading.as_json())
    reading.children.emit(context)


class Reading:
    """One document while it is read."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.findings = Findings()
        self.children = Children(self.findings)
        self._objects: list[dict[str, Any]] = []
        self._fields: list[str] = []
        self._oddities: list[dict[str, object]] = []
        self._depth = 0

    def look_at_text(self) -> None:
        """What the control words say."""
        self._header()
        self._depth = _depth(self._content)
        for name, pattern in _ODDITIES.items():
            count = sum(1 for _, _ in zip(pattern.finditer(self._content), range(1000), strict=False))
            if count:
                self._odd(name, count)
        if re.search(rb"\\objupdate\b", self._content, re.IGNORECASE):
            self.findings.trait("object_updates_itself", "\\objupdate")
        if (match := _EQUATION.search(self._content)) is not None:
            self.findings.trait("equation_object", f"at byte {match.start()}: the class of Equation 3.0")
        self._templates()
        self._dde_fields()

    def look_at_objects(self) -> None:
        """What is embedded."""
        parser = RtfObjParser(self._content)
        try:
            parser.parse()
        except Exception as error:  # noqa: BLE001 - rtfobj meets damaged documents with whatever comes
            self.findings.problem(f"objects: {type(error).__name__}: {error}")
        for one in parser.objects[:OBJECTS_MAX]:
            self._object(one)
        if len(parser.objects) > OBJECTS_MAX:
            self.findings.truncated()

    def as_json(self) -> dict[str, Any]:
        """The result."""
        return {
            "header": printable(self._content[:20]),
            "groups_max": self._depth,
            "oddities": self._oddities,
            "objects": self._objects,
            "fields": self._fields,
            "children": self.children.as_json(),
            **self.findings.as_json(),
        }

    def _header(self) -> None:
        if not self._content.startswith(b"{\\rtf1"):
            self._odd("a header that is not {\\rtf1", 1)

    def _odd(self, name: str, count: int) -> None:
        self._oddities.append({"kind": name, "count": count})
        self.findings.trait("rtf_obfuscated", name)

    def _templates(self) -> None:
        for match, _ in zip(_TEMPLATE.finditer(self._content), range(FIELDS_MAX), strict=False):
            target = _plain(match[1])
            self.findings.urls(target, "template")
            if _REMOTE.match(target):
                self.findings.trait("template_remote", f"template: {target}")

    def _dde_fields(self) -> None:
        for match, _ in zip(_FIELD.finditer(self._content), range(10_000), strict=False):
            instruction = _plain(match[1] or match[2] or b"")
            if (found := _DDE.search(instruction)) is not None and len(self._fields) < FIELDS_MAX:
                shown = printable(instruction[found.start() :])
                self._fields.append(shown)
                self.findings.trait("dde_field", shown)
            self.findings.urls(instruction, "field")

    def _object(self, one: Any) -> None:
        content = bytes(one.olepkgdata or one.oledata or one.rawdata or b"")
        name, path = printable(one.filename or "", 200), printable(one.src_path or "")
        kind = "package" if one.is_package else "OLE object" if one.is_ole else "not an OLE object"
        entry: dict[str, Any] = {
            "offset": int(one.start or 0),
            "class": printable(one.class_name or b"", 100),
            "kind": kind,
            "name": name,
            "path": path,
            "clsid": printable(one.clsid or ""),
            "size_bytes": len(content),
        }
        self._objects.append(entry)
        where = f"object at byte {entry['offset']}"
        if entry["clsid"].upper() in _EQUATION_CLSIDS or entry["class"].lower().startswith("equation"):
            self.findings.trait("equation_object", f"{where}: {entry['class'] or entry['clsid']}")
        if is_program(name, content):
            self.findings.trait("embedded_program", f"{where}: {name or 'a program'}")
        if path:
            self.findings.indicator("path", path, f"where the {where} was packed")
        self._urls(content[:URLS_SEARCHED_MAX_BYTES], where)
        self.children.add(f"{where} > {name}" if name else where, kind, content)

    def _urls(self, content: bytes, where: str) -> None:
        """In either width of characters, at either parity."""
        self.findings.urls(content.decode("latin-1"), where)
        self.findings.urls(content.decode("utf-16-le", "ignore"), where)
        self.findings.urls(content[1:].decode("utf-16-le", "ignore"), where)


def _plain(raw: bytes) -> str:
    """The text between the control words: a doubled backslash is one that is meant, a quoted number a byte."""
    text = raw.replace(b"\\\\", b"\0")
    text = re.sub(rb"\\'([0-9a-fA-F]{2})", lambda match: bytes.fromhex(match[1].decode()), text)
    return _CONTROL.sub(b"", text).replace(b"\0", b"\\").decode("latin-1").strip()


def _depth(content: bytes) -> int:
    """How deep the groups go, at most `DEPTH_MAX`."""
    depth = deepest = 0
    for match in re.finditer(rb"(?<!\\)[{}]", content):
        depth += 1 if match[0] == b"{" else -1
        deepest = max(deepest, depth)
        if deepest >= DEPTH_MAX:
            break
    return deepest
