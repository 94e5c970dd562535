"""Macros, by olevba: their source, what starts them, what they could do, and whether the source is the truth."""

import logging
from pathlib import Path
from typing import Any

from oletools.olevba import FileOpenError, VBA_Parser, VBA_Scanner, filter_vba

from .document import Document

SCANNED_MAX_CHARS = 1_000_000
_RUNS = (
    "shell",
    "wscript.shell",
    "run",
    "shellexecute",
    "createprocess",
    "powershell",
    "call shell",
    "mshta",
    "winmgmts",
)
_DOWNLOADS = ("urldownloadtofile", "xmlhttp", "winhttp", "net.webclient", "internetopen", "user-agent", "adodb.stream")
_OBFUSCATION = ("hex string", "base64 string", "dridex string", "vba string")
logging.getLogger("olevba").setLevel(logging.CRITICAL + 1)


def read(path: Path, document: Document) -> None:
    """The macros, their keywords and their traits are in the document."""
    try:
        parser = VBA_Parser(str(path))
    except FileOpenError:
        return
    except Exception as error:  # noqa: BLE001 - olevba meets damaged documents with whatever comes
        document.findings.problem(f"macros: {type(error).__name__}: {error}")
        return
    try:
        if parser.detect_macros():
            _read(parser, document)
    except Exception as error:  # noqa: BLE001 - as above
        document.findings.problem(f"macros: {type(error).__name__}: {error}")
    finally:
        parser.close()


def _read(parser: Any, document: Document) -> None:
    code = ""
    for subfile, stream, module, source in parser.extract_macros():
        text = source if isinstance(source, str) else source.decode("utf-8", "replace")
        kept = filter_vba(text)
        if kept.strip():
            document.macro(module or subfile, f"{subfile}/{stream}" if subfile != parser.filename else stream, kept)
            code = (code + "\n" + kept)[:SCANNED_MAX_CHARS]
    if parser.contains_xlm_macros:
        document.findings.trait("macro_sheet", "an Excel 4.0 macro sheet")
    if not code:
        return
    for kind, keyword, description in VBA_Scanner(code).scan(include_decoded_strings=True):
        document.keyword(kind, keyword, description)
        _judge(kind, keyword, description, document)
    document.findings.urls(code, "macro")
    if parser.detect_vba_stomping():
        document.findings.trait("macro_stomped", "words of the compiled code are not in the source")


def _judge(kind: str, keyword: str, description: str, document: Document) -> None:
    low = keyword.lower()
    shown = f"{keyword}: {description}"
    if kind == "AutoExec":
        document.findings.trait("macro_auto_exec", shown)
    elif kind == "Suspicious" and any(word in low for word in _DOWNLOADS):
        document.findings.trait("macro_downloads", shown)
    elif kind == "Suspicious" and low in _RUNS:
        document.findings.trait("macro_runs_programs", shown)
    elif kind.lower() in _OBFUSCATION or (kind == "Suspicious" and low.endswith("strings")):
        document.findings.trait("macro_obfuscated", shown)
        document.findings.urls(keyword, "decoded from a macro")
