"""How the file is laid out: header, sections, segments, what is appended, and what that tells of packers."""

from typing import Any

import lief

from malbox.sdk.entropy import HIGH_BITS, entropy_bits
from malbox.sdk.executables import Executable, entropy_at, first, name_of, word_for
from malbox.sdk.findings import Findings

SECTIONS_MAX = 200
EXECUTE, WRITE = 0x1, 0x2  # PF_X, PF_W
UPX_MAGIC = b"UPX!"
UPX_SEARCHED_BYTES = 4096  # its header follows the program headers, its trailer ends the file


def header(executable: Executable, findings: Findings) -> dict[str, Any]:
    """What kind of file this is for which machine, and whether it was stripped."""
    binary = executable.binary
    entry = int(binary.entrypoint)
    loaded = [one for one in binary.segments if one.type == lief.ELF.Segment.TYPE.LOAD]
    is_code = any(int(one.flags) & EXECUTE and _covers(one, entry) for one in loaded)
    if binary.header.entrypoint and loaded and not is_code:
        findings.trait("entry_point_outside_code", f"{entry:#x} is in no executable segment")
    if loaded and not len(binary.sections):
        findings.trait("section_headers_removed", "there is no table of sections")
    return {
        "type": word_for(binary.header.file_type),
        "machine": word_for(binary.header.machine_type),
        "bits": 64 if binary.header.identity_class == lief.ELF.Header.CLASS.ELF64 else 32,
        "abi": word_for(binary.header.identity_os_abi),
        "entrypoint": int(binary.header.entrypoint),
        "is_pie": bool(binary.is_pie),
        "is_stripped": next(iter(binary.symtab_symbols), None) is None,
        "build_id": _build_id(binary),
    }


def sections(executable: Executable, findings: Findings) -> dict[str, Any]:
    """Each section with its size and entropy."""
    found = first(executable.binary.sections, SECTIONS_MAX, findings)
    return {"sections": [_section(section, executable.content) for section in found]}


def segments(executable: Executable, findings: Findings) -> dict[str, Any]:
    """Each segment with its rights and entropy; packed and writable code are traits."""
    if UPX_MAGIC in executable.content[:UPX_SEARCHED_BYTES] or UPX_MAGIC in executable.content[-UPX_SEARCHED_BYTES:]:
        findings.trait("packed", "the mark of UPX stands at the beginning or the end")
    found = list(first(executable.binary.segments, SECTIONS_MAX, findings))
    return {"segments": [_segment(segment, executable.content, findings) for segment in found]}


def overlay(executable: Executable, _findings: Findings) -> dict[str, Any]:
    """What is appended behind all that the headers speak of."""
    begin = int(executable.binary.eof_offset)
    if not 0 < begin < executable.size_bytes:
        return {"overlay": None}
    content = executable.content[begin:]
    inside = executable.carries(f"overlay at {begin:#x}", content, executable.size_bytes - begin)
    return {
        "overlay": {
            "offset": begin,
            "size_bytes": executable.size_bytes - begin,
            "entropy": entropy_bits(content) if content else None,
            "kind": inside.words if inside is not None else None,
        }
    }


def _covers(segment: Any, address: int) -> bool:
    begin = int(segment.virtual_address)
    return begin <= address < begin + int(segment.virtual_size)


def _build_id(binary: Any) -> str | None:
    for note in binary.notes:
        if note.type == lief.ELF.Note.TYPE.GNU_BUILD_ID:
            return bytes(note.description)[:64].hex()
    return None


def _section(section: Any, content: bytes) -> dict[str, Any]:
    is_in_file = section.type != lief.ELF.Section.TYPE.NOBITS
    entropy = entropy_at(content, int(section.file_offset), int(section.size)) if is_in_file else 0.0
    return {
        "name": name_of(section.name),
        "type": word_for(section.type),
        "size_bytes": int(section.size),
        "entropy": entropy,
        "is_high_entropy": entropy >= HIGH_BITS,
        "offset": int(section.file_offset),
    }


def _segment(segment: Any, content: bytes, findings: Findings) -> dict[str, Any]:
    rights, where = int(segment.flags), int(segment.virtual_address)
    offset, size = int(segment.file_offset), int(segment.physical_size)
    entropy = entropy_at(content, offset, size)
    is_loaded = segment.type == lief.ELF.Segment.TYPE.LOAD
    if is_loaded and rights & EXECUTE and rights & WRITE:
        findings.trait("writable_code", f"the segment at {where:#x} is writable and executable")
    if is_loaded and rights & EXECUTE and entropy >= HIGH_BITS:
        findings.trait("packed", f"the executable segment at {where:#x} has an entropy of {entropy}")
    if segment.type == lief.ELF.Segment.TYPE.GNU_STACK and rights & EXECUTE:
        findings.trait("executable_stack", "PT_GNU_STACK asks for it")
    return {
        "type": word_for(segment.type),
        "flags": rights,
        "entropy": entropy,
        "size_bytes": size,
        "memory_bytes": int(segment.virtual_size),
        "address": where,
    }
