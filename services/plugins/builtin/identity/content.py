"""What kind of file begins like this, and how it would be run.

What decides how a sample is run is read here, field by field; `formats` knows what other plugins look for, and
puremagic lends a name and a media type to the rest.
"""

import codecs
import re
from dataclasses import dataclass

import puremagic

from . import formats, text

HEAD_BYTES = 64 * 1024
TEXT_PROBE_BYTES = 8 * 1024
DESCRIPTION_MAX_CHARS = 120

_SHEBANG = re.compile(rb"#![ \t]*([^\s]+)(?:[ \t]+([^\s]+))?")
_SHELLS = (b"sh", b"bash", b"dash", b"ash", b"ksh", b"zsh", b"busybox")
_PYTHON_LINE = re.compile(rb"^(?:import [A-Za-z_][\w.]*|from [A-Za-z_.][\w.]* import |def \w+\(.*\).*:)", re.MULTILINE)
_ELF_MACHINES = {0x03: "x86", 0x08: "MIPS", 0x28: "ARM", 0x3E: "x86-64", 0xB7: "AArch64", 0xF3: "RISC-V"}
_ZIP_FORMATS = (b"[Content_Types].xml", b"META-INF/", b"mimetype", b"AndroidManifest.xml")


@dataclass(frozen=True)
class Kind:
    """What the content is: media type, words for a reader, the package that runs it, the platform it is for."""

    mime: str
    description: str
    package: str
    platform: str | None = None
    is_text: bool = False


def classify(head: bytes, name: str) -> Kind:
    """The kind of a file that begins with `head`."""
    if not head:
        return Kind("application/x-empty", "empty file", "generic")
    for recognise in (_elf, _windows, _macho, _zip):
        kind = recognise(head)
        if kind is not None:
            return kind
    return _script(head, name) if _is_text(head) else _anything(head, name)


def _elf(head: bytes) -> Kind | None:
    if not head.startswith(b"\x7fELF"):
        return None
    bits = {b"\x01": "32-bit", b"\x02": "64-bit"}.get(head[4:5], "malformed")  # EI_CLASS
    is_big_endian = head[5:6] == b"\x02"  # EI_DATA
    machine = int.from_bytes(head[18:20], "big" if is_big_endian else "little")  # e_machine
    words = f"ELF {bits} {_ELF_MACHINES.get(machine, f'machine {machine}')}"
    return Kind("application/x-elf", words, "elf", "linux")


def _windows(head: bytes) -> Kind | None:
    if not head.startswith(b"MZ"):
        return None
    offset = int.from_bytes(head[0x3C:0x40], "little")  # e_lfanew
    is_pe = head[offset : offset + 4] == b"PE\0\0"
    words = "Windows PE executable" if is_pe else "DOS executable"
    return Kind("application/vnd.microsoft.portable-executable", words, "generic", "windows")


def _macho(head: bytes) -> Kind | None:
    words = formats.macho(head)
    return None if words is None else Kind("application/x-mach-binary", words, "generic")


def _zip(head: bytes) -> Kind | None:
    if head[:4] not in (b"PK\x03\x04", b"PK\x05\x06"):
        return None
    first_name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if first_name.startswith(_ZIP_FORMATS):
        return Kind(*formats.zip_format(head), "generic")
    return Kind("application/zip", "ZIP archive", "archive")


def _is_text(head: bytes) -> bool:
    probe = head[:TEXT_PROBE_BYTES]
    if b"\0" in probe:
        return False
    try:
        probe.decode()
    except UnicodeDecodeError as error:
        return len(head) > TEXT_PROBE_BYTES and error.start > TEXT_PROBE_BYTES - 4
    return True


def _script(head: bytes, name: str) -> Kind:
    interpreter = _interpreter(head)
    suffix = _suffix(name)
    if interpreter in _SHELLS or (interpreter is None and suffix in ("sh", "bash")):
        return Kind("text/x-shellscript", "shell script", "shell", "linux", is_text=True)
    if interpreter is not None and interpreter.startswith(b"python"):
        return Kind("text/x-python", "Python script", "python", is_text=True)
    if interpreter is not None:
        words = interpreter.decode("ascii", "replace")[:40]
        return Kind("text/plain", f"script for {words}", "generic", "linux", is_text=True)
    if suffix == "py" or _PYTHON_LINE.search(head):
        return Kind("text/x-python", "Python script", "python", is_text=True)
    return _other_text(head, name)


def _other_text(head: bytes, name: str) -> Kind:
    return Kind(*formats.text_format(head.removeprefix(codecs.BOM_UTF8), _suffix(name)), "generic", is_text=True)


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _interpreter(head: bytes) -> bytes | None:
    match = _SHEBANG.match(head)
    if match is None:
        return None
    program = match.group(1).rpartition(b"/")[2]
    if program == b"env" and match.group(2):
        return match.group(2).rpartition(b"/")[2]
    return program


def _anything(head: bytes, name: str) -> Kind:
    known = formats.binary_format(head)
    if known is not None:
        return Kind(*known, "generic")
    wide = text.from_wide(head)
    if wide is not None:
        return _other_text(wide, name)  # nothing that Linux would run: it does not see the first line
    if text.is_of_single_bytes(head):
        return _script(head, name)
    try:
        guesses = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        guesses = []
    named = [guess for guess in guesses if guess.mime_type]
    if not named:
        return Kind("application/octet-stream", "unknown binary", "generic")
    best = max(named, key=lambda guess: (guess.confidence, guess.mime_type))
    return Kind(best.mime_type, best.name[:DESCRIPTION_MAX_CHARS], "generic")
