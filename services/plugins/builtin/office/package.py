"""Packages (ECMA-376): what is elsewhere, what is embedded, fields that start programs, metadata."""

import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lxml import etree

from malbox.sdk.findings import printable

from . import compound
from .document import Document

CONTENT_TYPES = "[Content_Types].xml"
PARTS_READ_MAX = 2000
PART_MAX_BYTES = 60 * 1024 * 1024
XML_MAX_BYTES = 24 * 1024 * 1024
TOTAL_MAX_BYTES = 192 * 1024 * 1024
DIRECTORY_MAX_BYTES = 8 * 1024 * 1024
_TAIL_BYTES = 22 + 65_535  # APPNOTE 4.3.16: the end record, and the longest comment behind it
_FETCHED = frozenset(
    {"attachedTemplate", "oleObject", "frame", "subDocument", "externalLinkPath", "package", "control"}
)
"""Relationships whose target is fetched without a click when the document is opened."""
_DDE = re.compile(r"\bDDE(?:AUTO)?\b", re.IGNORECASE)
_CORE = ("title", "subject", "creator", "keywords", "description", "lastModifiedBy", "created", "modified", "revision")
_APP = ("Template", "Application", "AppVersion", "Company", "Manager", "TotalTime")


def read(path: Path, document: Document) -> None:
    """Every part was looked at, within bounds."""
    try:
        with zipfile.ZipFile(path) as archive:
            _Reader(archive, document).read()
    except Exception as error:  # noqa: BLE001 - zipfile meets damaged archives with whatever comes
        document.findings.problem(f"package: {type(error).__name__}: {error}")


def directory_bytes(stream: BinaryIO) -> int:
    """How long the archive says that its central directory is; an object is built for every 46 bytes of it."""
    stream.seek(0, 2)
    stream.seek(max(0, stream.tell() - _TAIL_BYTES))
    tail = stream.read(_TAIL_BYTES)
    at = tail.rfind(b"PK\x05\x06")
    return int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0


class _Reader:
    """Reads the parts, counting what comes out of them."""

    def __init__(self, archive: zipfile.ZipFile, document: Document) -> None:
        self._archive = archive
        self._document = document
        self._left_bytes = TOTAL_MAX_BYTES

    def read(self) -> None:
        for entry in self._archive.infolist()[:PARTS_READ_MAX]:
            self._document.part(entry.filename, entry.file_size)
            try:
                self._part(entry)
            except Exception as error:  # noqa: BLE001 - one damaged part costs only itself
                self._document.findings.problem(f"{entry.filename}: {type(error).__name__}: {error}")

    def _part(self, entry: zipfile.ZipInfo) -> None:
        name = PurePosixPath(entry.filename)
        folder = name.parent.name.lower()
        if name.suffix == ".rels":
            self._relationships(entry)
        elif folder in ("embeddings", "activex") and name.suffix in (
            ".bin",
            ".ole",
            ".docx",
            ".xlsx",
            ".pptx",
            ".xlsm",
            ".docm",
            "",
        ):
            self._embedded(entry, folder)
        elif entry.filename in ("docProps/core.xml", "docProps/app.xml"):
            self._metadata(entry)
        elif name.suffix == ".xml" and folder in ("word", "xl", "externallinks", "slides", "ppt", "worksheets"):
            self._fields(entry)
        elif folder == "macrosheets" and name.suffix == ".xml":
            self._document.findings.trait("macro_sheet", entry.filename)
        elif folder == "customui" and name.suffix == ".xml":
            self._document.keyword("CustomUI", entry.filename, "the ribbon is changed; its callbacks may start macros")

    def _bytes(self, entry: zipfile.ZipInfo, limit: int) -> bytes:
        """The part, cut off at the limit or at what is left for all."""
        limit = min(limit, self._left_bytes)
        with self._archive.open(entry) as source:
            content = source.read(limit + 1)
        self._left_bytes -= min(len(content), limit)
        if len(content) > limit:
            self._document.findings.problem(f"{entry.filename}: more than {limit} bytes; the rest was not read")
            self._document.findings.truncated()
        return content[:limit]

    def _xml(self, entry: zipfile.ZipInfo) -> "etree._Element | None":
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=True)
        content = self._bytes(entry, XML_MAX_BYTES)
        return etree.fromstring(content, parser) if content.strip() else None

    def _relationships(self, entry: zipfile.ZipInfo) -> None:
        root = self._xml(entry)
        for element in root.iter("{*}Relationship") if root is not None else ():
            if element.get("TargetMode", "").lower() != "external":
                continue
            kind, target = element.get("Type", "").rpartition("/")[2], element.get("Target", "")
            self._document.relationship(entry.filename, printable(kind, 60), target)
            self._document.findings.urls(target, f"{kind} of {entry.filename}")
            is_remote = re.match(r"(?i)(?:https?|ftp|mhtml|file)[:!]|\\\\", target)
            if kind in _FETCHED and is_remote:
                self._document.findings.trait("template_remote", f"{kind} of {entry.filename}: {target}")

    def _embedded(self, entry: zipfile.ZipInfo, folder: str) -> None:
        content = self._bytes(entry, PART_MAX_BYTES)
        if content.startswith(b"\xd0\xcf\x11\xe0"):
            compound.read_embedded(content, entry.filename, self._document)
        kind = "embedded object" if folder == "embeddings" else "ActiveX control"
        self._document.embedded(entry.filename, kind, content, name=PurePosixPath(entry.filename).name)

    def _metadata(self, entry: zipfile.ZipInfo) -> None:
        root = self._xml(entry)
        for element in root.iter("{*}*") if root is not None else ():
            name = etree.QName(element).localname
            if name in (*_CORE, *_APP) and element.text:
                self._document.metadata[name] = printable(element.text, 200)

    def _fields(self, entry: zipfile.ZipInfo) -> None:
        """Word's fields, whose instruction may be cut into many runs, and Excel's links."""
        root = self._xml(entry)
        if root is None:
            return
        runs = "".join(element.text or "" for element in root.iter("{*}instrText"))
        simple = [
            element.get(f"{{{element.nsmap.get(element.prefix)}}}instr", "") for element in root.iter("{*}fldSimple")
        ]
        for instruction in (runs, *simple):
            match = _DDE.search(instruction)
            if match:
                self._document.field_found(entry.filename, instruction[match.start() : match.start() + 300])
        for link in root.iter("{*}ddeLink"):
            instruction = f"{link.get('ddeService', '')} {link.get('ddeTopic', '')}"
            self._document.field_found(entry.filename, instruction)
