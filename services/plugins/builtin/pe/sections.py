"""The sections, what is odd about them, and what they tell of packers."""

from typing import Any

from malbox.sdk.entropy import HIGH_BITS
from malbox.sdk.executables import Executable, first, name_of
from malbox.sdk.findings import Findings

from .headers import EXECUTE, WRITE, section_of

SECTIONS_MAX = 96  # what Windows loads at most
INFLATED_FACTOR = 8
INFLATED_MIN_BYTES = 64 * 1024
PACKERS = {
    "upx0": "UPX", "upx1": "UPX", "upx2": "UPX", "upx!": "UPX",
    ".aspack": "ASPack", ".adata": "ASPack", ".asprotec": "ASProtect",
    ".mpress1": "MPRESS", ".mpress2": "MPRESS", ".petite": "Petite", "pec1": "PECompact", "pec2": "PECompact",
    ".vmp0": "VMProtect", ".vmp1": "VMProtect", ".vmp2": "VMProtect", ".themida": "Themida", ".winlice": "WinLicense",
    ".enigma1": "Enigma", ".enigma2": "Enigma", ".nsp0": "NsPack", ".nsp1": "NsPack", ".nsp2": "NsPack",
    ".upack": "Upack", ".yp": "Yoda's Protector", ".taz": "PESpin", ".rlpack": "RLPack", ".svkp": "SVK Protector",
}  # fmt: skip
"""Names that packers give to sections, in lower case."""


def sections(executable: Executable, findings: Findings) -> list[dict[str, Any]]:
    """Each with its sizes, rights and entropy."""
    described = [_section(section, findings) for section in first(executable.binary.sections, SECTIONS_MAX, findings)]
    _judge_entry(executable, findings)
    return described


def _section(section: Any, findings: Findings) -> dict[str, Any]:
    flags, name = int(section.characteristics), name_of(section.name)
    entropy = round(float(section.entropy), 2)
    packer = PACKERS.get(name.lower())
    raw, virtual = int(section.sizeof_raw_data), int(section.virtual_size)
    if packer:
        findings.trait("packed", f"section {name} is one of {packer}")
    if flags & EXECUTE and entropy >= HIGH_BITS:
        findings.trait("packed", f"executable section {name} has an entropy of {entropy}")
    if flags & EXECUTE and flags & WRITE:
        findings.trait("writable_code", f"section {name} is writable and executable")
    return {
        "name": name,
        "rights": "r" + ("w" if flags & WRITE else "-") + ("x" if flags & EXECUTE else "-"),
        "entropy": entropy,
        "raw_bytes": raw,
        "virtual_bytes": virtual,
        "address": int(section.virtual_address),
        "offset": int(section.offset),
        "is_high_entropy": entropy >= HIGH_BITS,
        "is_inflated": virtual > max(INFLATED_MIN_BYTES, INFLATED_FACTOR * raw),
        "packer": packer,
    }


def _judge_entry(executable: Executable, findings: Findings) -> None:
    """Code that has no bytes in the file is written when the program runs: by what unpacks it."""
    entered = section_of(executable.binary, executable.binary.optional_header.addressof_entrypoint)
    for section in list(executable.binary.sections)[:SECTIONS_MAX]:
        is_empty = not int(section.sizeof_raw_data) and int(section.virtual_size)
        if is_empty and int(section.characteristics) & EXECUTE and entered is not None and section != entered:
            findings.trait("packed", f"executable section {name_of(section.name)} has no bytes in the file")
