"""Reads the structure of an ELF file with LIEF. Every list is bounded; every name is cut to a sane length."""

from pathlib import Path
from typing import Any

import lief

from malbox.sdk import Context, PluginFailure, PluginSkipped
from malbox.sdk.executables import Executable, Reader, beginning, described, keyed

from .layout import header, overlay, sections, segments
from .linking import linking

MAGIC = b"\x7fELF"
PARTS: tuple[Reader, ...] = (
    header,
    linking,
    sections,
    segments,
    overlay,
    keyed("children", lambda executable, _: executable.children.as_json()),
)
"""Who fills the result; the children are told of when all others have looked."""


def run(context: Context) -> None:
    """The results `elf` and `children/…` are emitted. Raises PluginSkipped, PluginFailure as `load` does."""
    executable = load(context.sample)
    context.emit_json("elf", described(executable, PARTS))
    executable.children.emit(context)


def describe(path: Path) -> dict[str, Any]:
    """The structure as plain data. Raises PluginSkipped, PluginFailure."""
    return described(load(path), PARTS)


def load(path: Path) -> Executable:
    """The parsed file. Raises PluginSkipped, and PluginFailure when the bytes only begin like an ELF file."""
    content = beginning(path)
    if not content.startswith(MAGIC):
        raise PluginSkipped("not an ELF file")
    lief.logging.disable()
    return Executable(_parsed(content), content, path.stat().st_size)


def _parsed(content: bytes) -> Any:
    try:
        binary = lief.ELF.parse(content)
    except Exception as error:  # LIEF meets damaged headers with whatever comes, SystemError among it
        raise PluginFailure(f"corrupted ELF file: {error}") from error
    if binary is None or not (len(binary.segments) or len(binary.sections)):
        raise PluginFailure("corrupted ELF file: it has the magic number and no readable headers")
    return binary
