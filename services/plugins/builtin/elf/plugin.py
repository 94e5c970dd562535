"""Reads the structure of an ELF file with LIEF. Every list is bounded; every name is cut to a sane length.

Every part is read by itself: what is damaged in one is a problem of the result and costs the others nothing.
"""

import warnings
from pathlib import Path
from typing import Any

import lief

from malbox.sdk import Context, PluginFailure, PluginSkipped
from malbox.sdk.findings import Findings

from .layout import header, overlay, sections, segments
from .linking import linking
from .parts import Executable, Reader

MIB = 1024 * 1024
READ_MAX_BYTES = 128 * MIB
MAGIC = b"\x7fELF"
PARTS: tuple[Reader, ...] = (header, linking, sections, segments, overlay)
"""Who fills the result."""


def run(context: Context) -> None:
    """The result `elf` is emitted. Raises PluginFailure when the bytes only begin like an ELF file."""
    context.emit_json("elf", describe(context.sample))


def describe(path: Path) -> dict[str, Any]:
    """The structure as plain data. Raises PluginSkipped, PluginFailure."""
    with path.open("rb") as stream:
        content = stream.read(READ_MAX_BYTES)
    if not content.startswith(MAGIC):
        raise PluginSkipped("not an ELF file")
    lief.logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # LIEF's, of numbers that it has no name for
        return _described(Executable(_parsed(content), content, path.stat().st_size))


def _parsed(content: bytes) -> Any:
    try:
        binary = lief.ELF.parse(content)
    except Exception as error:  # LIEF meets damaged headers with whatever comes, SystemError among it
        raise PluginFailure(f"corrupted ELF file: {error}") from error
    if binary is None or not (len(binary.segments) or len(binary.sections)):
        raise PluginFailure("corrupted ELF file: it has the magic number and no readable headers")
    return binary


def _described(executable: Executable) -> dict[str, Any]:
    findings = Findings()
    said: dict[str, Any] = {}
    for read in PARTS:
        try:
            said |= read(executable, findings)
        except Exception as error:  # noqa: BLE001 - whatever LIEF meets damaged data with
            findings.problem(f"{read.__name__}: {type(error).__name__}: {error}")
    if executable.size_bytes > len(executable.content):
        findings.problem(f"only the first {READ_MAX_BYTES // MIB} MiB were read")
        findings.truncated()
    return {**findings.as_json(), **said}
