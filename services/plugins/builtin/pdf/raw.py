"""What the bytes say before any is parsed: where the header is, revisions, what hangs behind the end, disguises."""

import re

from .document import Document

TRAILING_MIN_BYTES = 64
DISGUISES_MAX = 20
_VERSION = re.compile(rb"%PDF-(\d\.\d)?")
_NAME = re.compile(rb"/(?:[A-Za-z]|#[0-9A-Fa-f]{2}){2,40}")
_TELLING = frozenset(
    b"JavaScript JS OpenAction AA Launch EmbeddedFile URI SubmitForm GoToR GoToE RichMedia ObjStm XFA".split()
)


def read(content: bytes, document: Document) -> None:
    """The facts and traits are in the document."""
    header = _VERSION.search(content)
    if header is not None:
        document.version = (header[1] or b"").decode()
        document.header_offset = header.start()
    document.revisions = content.count(b"%%EOF")
    end = content.rfind(b"%%EOF")
    document.trailing_bytes = len(content) - end - len(b"%%EOF") if end >= 0 else 0
    findings = document.findings
    if document.header_offset:
        findings.trait("pdf_malformed", f"the header stands at byte {document.header_offset}")
    if not document.revisions:
        findings.trait("pdf_malformed", "no end mark")
    if document.trailing_bytes > TRAILING_MIN_BYTES:
        findings.trait("pdf_malformed", f"{document.trailing_bytes} bytes behind the end mark")
    _disguises(content, document)


def _disguises(content: bytes, document: Document) -> None:
    """Names of actions with some of their letters as numbers."""
    found = 0
    for match in _NAME.finditer(content):
        if b"#" not in match[0]:
            continue
        plain = re.sub(rb"#([0-9A-Fa-f]{2})", lambda one: bytes.fromhex(one[1].decode()), match[0][1:])
        if plain in _TELLING:
            document.findings.trait("pdf_names_disguised", f"{match[0].decode()} at byte {match.start()}")
            found += 1
            if found >= DISGUISES_MAX:
                return
