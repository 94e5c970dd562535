"""Compound files ([MS-CFB]): streams, metadata, encryption, objects in Ole10Native streams, DDE fields of Word."""

import io
from pathlib import Path
from typing import Any

import olefile
from oletools import msodde, oleobj

from malbox.sdk.findings import printable

from .document import Document

STREAM_MAX_BYTES = 60 * 1024 * 1024
FIELDS_SEARCHED_MAX_BYTES = 4 * 1024 * 1024
STREAMS_MAX = 5000
EQUATION_CLSIDS = frozenset({"0002CE02-0000-0000-C000-000000000046", "0002CE03-0000-0000-C000-000000000046"})
_METADATA = ("title", "subject", "author", "keywords", "comments", "template", "last_saved_by", "company", "manager",
             "create_time", "last_saved_time", "revision_number", "creating_application", "codepage")  # fmt: skip
_FIB_ENCRYPTED = 0x0100  # [MS-DOC] 2.5.2: fEncrypted of the flags at offset 10
_WORD_STREAMS = ("WordDocument",)


def read(path: Path, document: Document) -> None:
    """What the file holds is in the document."""
    try:
        with olefile.OleFileIO(str(path)) as ole:
            _metadata(ole, document)
            read_streams(ole, "", document)
    except Exception as error:  # noqa: BLE001 - olefile meets damaged files with whatever comes
        document.findings.problem(f"compound file: {type(error).__name__}: {error}")


def read_embedded(content: bytes, part: str, document: Document) -> None:
    """The same for a compound file that is a part of a package."""
    try:
        with olefile.OleFileIO(io.BytesIO(content)) as ole:
            read_streams(ole, f"{part} > ", document)
    except Exception as error:  # noqa: BLE001 - as above
        document.findings.problem(f"{part}: {type(error).__name__}: {error}")


def read_streams(ole: Any, prefix: str, document: Document) -> None:
    """Each stream is listed; objects, fields and encryption are found by their names."""
    _equation(ole, prefix or "the document", document)
    for path in ole.listdir(streams=True, storages=False)[:STREAMS_MAX]:
        name = "/".join(path)
        document.part(prefix + name, ole.get_size(path))
        last = path[-1].lower()
        if last in ("encryptedpackage", "encryptioninfo"):
            document.is_encrypted = True
            document.findings.trait("document_encrypted", prefix + name)
        elif last == "\x01ole10native":
            _native(ole.openstream(path).read(STREAM_MAX_BYTES), prefix + name, document)
        elif last == "equation native":
            document.findings.trait("equation_object", prefix + name)
        elif path[-1] in _WORD_STREAMS:
            _word(ole.openstream(path).read(FIELDS_SEARCHED_MAX_BYTES), prefix + name, document)


def _metadata(ole: Any, document: Document) -> None:
    found = ole.get_metadata()
    for name in _METADATA:
        value = getattr(found, name, None)
        if value not in (None, b"", ""):
            document.metadata[name] = printable(value if isinstance(value, bytes) else str(value), 200)


def _equation(ole: Any, where: str, document: Document) -> None:
    clsids = {str(ole.root.clsid).upper()} | {
        str(entry.clsid).upper() for entry in ole.direntries[:STREAMS_MAX] if entry is not None and entry.clsid
    }
    if clsids & EQUATION_CLSIDS:
        document.findings.trait("equation_object", f"{where}: class of Equation 3.0")


def _native(content: bytes, part: str, document: Document) -> None:
    native = oleobj.OleNativeStream(bindata=content)
    name, path = _text(native.filename), _text(native.src_path)
    document.embedded(part, "OLE package", bytes(native.data or b"")[:STREAM_MAX_BYTES], name=name, path=path)
    if path:
        document.findings.indicator("path", path, f"where {part} was packed")


def _word(content: bytes, part: str, document: Document) -> None:
    if int.from_bytes(content[10:12], "little") & _FIB_ENCRYPTED:
        document.is_encrypted = True
        document.findings.trait("document_encrypted", part)
    for instruction in msodde.process_doc_stream(io.BytesIO(content)):
        document.field_found(part, str(instruction).strip())


def _text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
