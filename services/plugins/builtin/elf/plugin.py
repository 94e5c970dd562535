"""Reads the structure of an ELF file with LIEF. Every list is bounded; every name is cut to a sane length."""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import lief

from malbox.sdk import Context, PluginFailure, PluginSkipped

NAMES_MAX = 2000
SECTIONS_MAX = 200
NAME_MAX_CHARS = 200
HIGH_ENTROPY_BITS = 7.2  # of 8: compressed or encrypted; Lyda and Hamrock 2007 place packed sections from 6.8 on


def run(context: Context) -> None:
    """The result `elf` is emitted. Raises PluginFailure when the bytes only begin like an ELF file."""
    with context.sample.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            raise PluginSkipped("not an ELF file")
    lief.logging.disable()
    try:
        structure = describe(context.sample)
    except PluginFailure:
        raise
    except Exception as error:  # LIEF meets damaged headers with whatever comes, SystemError among it
        raise PluginFailure(f"corrupted ELF file: {error}") from error
    context.emit_json("elf", structure)


def describe(path: Path) -> dict[str, Any]:
    """The structure as plain data."""
    binary = lief.ELF.parse(str(path))
    if binary is None or not (len(binary.segments) or len(binary.sections)):
        raise PluginFailure("corrupted ELF file: it has the magic number and no readable headers")
    return {
        "type": binary.header.file_type.name,
        "machine": binary.header.machine_type.name,
        "bits": 64 if binary.header.identity_class == lief.ELF.Header.CLASS.ELF64 else 32,
        "entrypoint": binary.header.entrypoint,
        "interpreter": _text(binary.interpreter) if binary.has_interpreter else None,
        "is_pie": bool(binary.is_pie),
        "is_static": not binary.has_interpreter,
        "is_stripped": next(iter(binary.symtab_symbols), None) is None,
        "libraries": _names(binary.libraries, _text),
        "imports": _names(binary.imported_functions, lambda function: _text(function.name)),
        "exports": _names(binary.exported_functions, lambda function: _text(function.name)),
        "sections": [_section(section) for section in islice(binary.sections, SECTIONS_MAX)],
        "segments": [_segment(segment) for segment in islice(binary.segments, SECTIONS_MAX)],
    }


def _names(things: Iterable[Any], name_of: Callable[[Any], str]) -> list[str]:
    return [name_of(thing) for thing in islice(things, NAMES_MAX)]


def _section(section: Any) -> dict[str, Any]:
    entropy = round(float(section.entropy), 2)
    return {
        "name": _text(section.name),
        "type": section.type.name,
        "offset": int(section.file_offset),
        "size_bytes": int(section.size),
        "entropy": entropy,
        "is_high_entropy": entropy >= HIGH_ENTROPY_BITS,
    }


def _segment(segment: Any) -> dict[str, Any]:
    return {
        "type": segment.type.name,
        "flags": int(segment.flags),
        "address": int(segment.virtual_address),
        "size_bytes": int(segment.physical_size),
    }


def _text(value: str | bytes) -> str:
    """Printable, and no longer than a name needs to be."""
    text = value if isinstance(value, str) else value.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:NAME_MAX_CHARS])
