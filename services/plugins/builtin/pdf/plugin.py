"""Reads a PDF document without showing it: its structure with pypdf, its disguises and damage in the raw bytes."""

import io
import logging

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from malbox.sdk import Context, PluginFailure, PluginSkipped
from malbox.sdk.cpu_budget import cpu_budget

from . import raw
from .document import Document
from .objects import Scan

PROCESSOR_S = 60.0
SAMPLE_MAX_BYTES = 128 * 1024 * 1024
HEADER_WITHIN_BYTES = 1024  # ISO 32000-1, implementation note 13: Acrobat looks so far for the header
CUSTOMARY_PASSWORDS = ("", "infected", "malware", "virus", "password")


def run(context: Context) -> None:
    """The result `pdf` and the embedded files and scripts `children/…` are emitted."""
    with context.sample.open("rb") as stream:
        content = stream.read(SAMPLE_MAX_BYTES)
        rest = stream.read(1)
    if b"%PDF-" not in content[:HEADER_WITHIN_BYTES]:
        raise PluginSkipped("not a PDF document")
    document = Document()
    if rest:
        document.findings.problem(f"only the first {SAMPLE_MAX_BYTES} bytes were read")
    passwords = tuple(dict.fromkeys((context.config.get("password", ""), *CUSTOMARY_PASSWORDS)))
    with cpu_budget(PROCESSOR_S) as time:
        raw.read(content, document)
        read(content, passwords, document)
    if time.is_spent:
        document.findings.problem(f"reading ended after {PROCESSOR_S:.0f} s of processor time")
    document.embedded.hand_out(document.children)
    if document.is_empty:
        raise PluginFailure("; ".join(document.findings.as_json()["problems"]) or "corrupted PDF: no object in it")
    context.emit_json("pdf", document.as_json())
    document.children.emit(context)


def read(content: bytes, passwords: tuple[str, ...], document: Document) -> None:
    """Everything that pypdf can reach is in the document."""
    warnings = _Warnings()
    logger = logging.getLogger("pypdf")
    logger.addHandler(warnings)
    is_propagated, logger.propagate = logger.propagate, False
    try:
        reader = PdfReader(io.BytesIO(content), strict=False)
        if reader.is_encrypted:
            _decrypt(reader, passwords, document)
        Scan(reader, document).scan()
    except (PyPdfError, RecursionError) as error:
        document.findings.problem(f"structure: {type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - pypdf meets damaged documents with whatever comes
        document.findings.problem(f"structure: {type(error).__name__}: {error}")
    finally:
        logger.removeHandler(warnings)
        logger.propagate = is_propagated
    for words in warnings.said:
        document.findings.problem(words)
        document.findings.trait("pdf_malformed", words)


def _decrypt(reader: PdfReader, passwords: tuple[str, ...], document: Document) -> None:
    document.is_encrypted = True
    for password in passwords:
        if reader.decrypt(password):
            document.password = password
            return
    document.findings.trait("document_encrypted", f"none of {len(passwords)} passwords opens it")


class _Warnings(logging.Handler):
    """What pypdf had to overlook."""

    MAX = 10

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.said) < self.MAX and record.getMessage() not in self.said:
            self.said.append(record.getMessage())
