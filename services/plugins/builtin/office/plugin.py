"""Reads an Office document without opening it: compound files (OLE), packages (OOXML) and Word 2003 XML."""

import zipfile
from pathlib import Path

from malbox.sdk import Context, PluginFailure, PluginSkipped
from malbox.sdk.cpu_budget import cpu_budget

from . import compound, macros, package
from .decryption import decrypted
from .document import Document

PROCESSOR_S = 80.0
OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # [MS-CFB] 2.2
HEAD_BYTES = 4096


def run(context: Context) -> None:
    """The result `office` and the embedded files `children/…` are emitted."""
    kind = format_of(context.sample)
    if kind is None:
        raise PluginSkipped("not an Office document")
    document = Document(kind)
    with cpu_budget(PROCESSOR_S) as time:
        read(context.sample, kind, document)
        plain = context.scratch / "plain"
        if document.is_encrypted and decrypted(context.sample, context.config.get("password", ""), plain, document):
            read(plain, format_of(plain) or kind, document)
            plain.unlink()
    if time.is_spent:
        document.findings.problem(f"reading ended after {PROCESSOR_S:.0f} s of processor time")
    if document.is_empty:
        raise PluginFailure("; ".join(document.findings.as_json()["problems"]) or "corrupted document: nothing in it")
    context.emit_json("office", document.as_json())
    document.children.emit(context)


def read(path: Path, kind: str, document: Document) -> None:
    """What the file holds is in the document."""
    if kind == "OLE":
        compound.read(path, document)
    elif kind == "OOXML":
        package.read(path, document)
    macros.read(path, document)


def format_of(path: Path) -> str | None:
    """OLE, OOXML or Word 2003 XML, or None for everything else."""
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(OLE_MAGIC):
        return "OLE"
    if head.startswith(b"PK\x03\x04") and _is_package(path):
        return "OOXML"
    if b"<?mso-application" in head or b"schemas.microsoft.com/office/word/2003/wordml" in head:
        return "Word 2003 XML"
    return None


def _is_package(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            if package.directory_bytes(stream) > package.DIRECTORY_MAX_BYTES:
                return False
            with zipfile.ZipFile(stream) as archive:
                return package.CONTENT_TYPES in archive.NameToInfo
    except Exception:  # noqa: BLE001 - zipfile meets hostile bytes with whatever comes; such a file is no package
        return False
