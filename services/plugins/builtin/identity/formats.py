"""Formats that other plugins look for, each by the bytes that its specification fixes. None of them is run by itself.

puremagic names the rest. These are read here because a plugin applies by media type, and that must not change with the
data of a library.
"""

import re
from dataclasses import dataclass
from uuid import UUID

FAT_ARCHITECTURES_MAX = 30  # in the same place a Java class has its version, which is 45 and more
_MACHO_MAGICS = {
    b"\xfe\xed\xfa\xce": "Mach-O 32-bit",
    b"\xce\xfa\xed\xfe": "Mach-O 32-bit",
    b"\xfe\xed\xfa\xcf": "Mach-O 64-bit",
    b"\xcf\xfa\xed\xfe": "Mach-O 64-bit",
}
_SHORTCUT = b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46"  # MS-SHLLINK 2.1: size and class of the header
_SIGNED_DATA = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"  # 1.2.840.113549.1.7.2
_COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # MS-CFB 2.2
_OUTLOOK_MESSAGE = UUID("00020d0b-0000-0000-c000-000000000046").bytes_le
"""The class of the root where Outlook saved a message: a document that holds one has a class of its own there."""
_WORDPROCESSING = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_SPREADSHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_PRESENTATION = "application/vnd.openxmlformats-officedocument.presentationml.presentation"


@dataclass(frozen=True)
class Format:
    """Bytes that stand at an offset, and what a file with them is."""

    magic: bytes
    mime: str
    description: str
    offset: int = 0


BINARY_FORMATS = (
    Format(b"%PDF-", "application/pdf", "PDF document"),
    Format(b"{\\rt", "application/rtf", "RTF document"),
    Format(_COMPOUND, "application/x-ole-storage", "OLE compound file (Office 97 to 2003)"),
    Format(_SHORTCUT, "application/x-ms-shortcut", "Windows shortcut"),
    Format(b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed", "7-Zip archive"),
    Format(b"Rar!\x1a\x07", "application/vnd.rar", "RAR archive"),
    Format(b"MSCF\0\0\0\0", "application/vnd.ms-cab-compressed", "Cabinet archive"),
    Format(b"ITSF\x03\0\0\0", "application/vnd.ms-htmlhelp", "compiled HTML help"),
    Format(b"\x1f\x8b\x08", "application/gzip", "gzip stream"),
    Format(b"BZh", "application/x-bzip2", "bzip2 stream"),
    Format(b"\xfd7zXZ\0", "application/x-xz", "xz stream"),
    Format(b"\x28\xb5\x2f\xfd", "application/zstd", "Zstandard stream"),
    Format(b"ustar", "application/x-tar", "tar archive", offset=257),
    Format(b"!<arch>\n", "application/x-archive", "ar archive"),
    Format(b"CD001", "application/x-iso9660-image", "ISO 9660 image", offset=0x8001),
    Format(_SIGNED_DATA, "application/pkcs7-mime", "PKCS#7 signed data", offset=4),
    Format(b"\xa0\x03\x02\x01\x02", "application/pkix-cert", "X.509 certificate", offset=8),
    Format(b"dex\n", "application/vnd.android.dex", "Android DEX code"),
    Format(b"\0asm", "application/wasm", "WebAssembly module"),
)
ZIP_PARTS = (
    (b"word/", _WORDPROCESSING, "Word document (OOXML)"),
    (b"xl/", _SPREADSHEET, "Excel workbook (OOXML)"),
    (b"ppt/", _PRESENTATION, "PowerPoint presentation (OOXML)"),
    (b"AndroidManifest.xml", "application/vnd.android.package-archive", "Android package"),
    (b"META-INF/MANIFEST.MF", "application/java-archive", "Java archive"),
)
TEXT_FORMATS = (
    Format(b"{\\rt", "application/rtf", "RTF document"),
    Format(b"%PDF-", "application/pdf", "PDF document"),
    Format(b"-----BEGIN ", "application/x-pem-file", "PEM: certificates or keys as text"),
)
SUFFIXES = {
    "ps1": ("text/x-powershell", "PowerShell script"),
    "psm1": ("text/x-powershell", "PowerShell module"),
    "js": ("text/javascript", "JavaScript"),
    "jse": ("text/javascript", "JavaScript, encoded"),
    "vbs": ("text/vbscript", "VBScript"),
    "vbe": ("text/vbscript", "VBScript, encoded"),
    "wsf": ("text/x-wsf", "Windows script file"),
    "hta": ("text/html", "HTML application"),
    "htm": ("text/html", "HTML document"),
    "html": ("text/html", "HTML document"),
    "bat": ("text/x-msdos-batch", "batch file"),
    "cmd": ("text/x-msdos-batch", "batch file"),
    "eml": ("message/rfc822", "e-mail message"),
    "svg": ("image/svg+xml", "SVG image"),
    "xml": ("text/xml", "XML document"),
    "crt": ("application/x-pem-file", "PEM: certificates or keys as text"),
    "pem": ("application/x-pem-file", "PEM: certificates or keys as text"),
}
"""What breaks the tie between kinds of text whose content says nothing certain."""

_CONTENTS = (
    (re.compile(rb"^\s*(<!doctype html|<html[\s>])", re.IGNORECASE), "text/html", "HTML document"),
    (re.compile(rb"^\s*(<\?xml[^>]{0,200}>\s*)?<svg[\s>]", re.IGNORECASE), "image/svg+xml", "SVG image"),
    (re.compile(rb"^\s*<(\?xml\s|job[\s>]|package[\s>])", re.IGNORECASE), "text/xml", "XML document"),
    (re.compile(rb"^\s*#@~\^"), "text/vbscript", "script of Microsoft's Script Encoder"),
    (re.compile(rb"^@?echo off\b", re.IGNORECASE), "text/x-msdos-batch", "batch file"),
    (
        re.compile(rb"^(Received|Return-Path|Delivered-To|MIME-Version|Message-ID): ", re.IGNORECASE),
        "message/rfc822",
        "e-mail message",
    ),
)


def macho(head: bytes) -> str | None:
    """Words for a Mach-O file, one architecture or several; None for anything else."""
    words = _MACHO_MAGICS.get(head[:4])
    if words is not None:
        return words
    count = int.from_bytes(head[4:8], "big")
    if head[:4] in (b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf") and 0 < count <= FAT_ARCHITECTURES_MAX:
        return f"Mach-O universal, {count} architectures"
    return None


def binary_format(head: bytes) -> tuple[str, str] | None:
    """Media type and words of a file with fixed bytes."""
    if head.startswith(_COMPOUND) and _root_class(head) == _OUTLOOK_MESSAGE:
        return "application/vnd.ms-outlook", "message saved by Outlook"
    return _of_magic(head, BINARY_FORMATS)


def _root_class(head: bytes) -> bytes:
    """The class of a compound file's root, which is the directory's first entry (MS-CFB 2.2, 2.6.1)."""
    sector_bytes = 1 << min(int.from_bytes(head[30:32], "little"), 16)
    directory = (int.from_bytes(head[48:52], "little") + 1) * sector_bytes
    return head[directory + 80 : directory + 96]


def zip_format(head: bytes) -> tuple[str, str]:
    """Media type and words of what comes in a ZIP container, by the first parts that are named in it."""
    for part, mime, words in ZIP_PARTS:
        if part in head:
            return mime, words
    return "application/zip", "document or package in a ZIP container"


def text_format(head: bytes, suffix: str) -> tuple[str, str]:
    """Media type and words of text that is no script of Linux."""
    found = _of_magic(head, TEXT_FORMATS)
    if found is not None:
        return found
    for pattern, mime, words in _CONTENTS:
        if pattern.search(head[:4096]) and SUFFIXES.get(suffix, ("text/xml", ""))[0] in (mime, "text/xml"):
            return mime, words
    return SUFFIXES.get(suffix, ("text/plain", "text"))


def _of_magic(head: bytes, formats: tuple[Format, ...]) -> tuple[str, str] | None:
    for one in formats:
        if head.startswith(one.magic, one.offset):
            return one.mime, one.description
    return None
