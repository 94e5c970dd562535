"""What the headers say of the file as a whole."""

from typing import Any

import lief

from malbox.sdk.executables import Executable, name_of, word_for
from malbox.sdk.findings import Findings

HIGH_ENTROPY_VA, DYNAMIC_BASE, NX_COMPAT, GUARD_CF = 0x0020, 0x0040, 0x0100, 0x4000
EXECUTE, WRITE = 0x20000000, 0x80000000
DLL = 0x2000


def header(executable: Executable, findings: Findings) -> dict[str, Any]:
    """Machine, kind, entry point, protections and check sum."""
    coff, optional = executable.binary.header, executable.binary.optional_header
    flags = int(optional.dll_characteristics)
    where = section_of(executable.binary, optional.addressof_entrypoint)
    is_code = where is not None and bool(int(where.characteristics) & EXECUTE)
    is_header_only = not len(executable.binary.sections)
    if optional.addressof_entrypoint and not is_code and not is_header_only:
        place = "no section" if where is None else f"section {name_of(where.name)}, which is not executable"
        findings.trait("entry_point_outside_code", f"{optional.addressof_entrypoint:#x} is in {place}")
    return {
        "machine": word_for(coff.machine),
        "bits": 64 if optional.magic == lief.PE.PE_TYPE.PE32_PLUS else 32,
        "is_dll": bool(int(coff.characteristics) & DLL),
        "subsystem": word_for(optional.subsystem),
        "built_at_unix_s": int(coff.time_date_stamps),
        "is_reproducible_build": bool(executable.binary.is_reproducible_build),
        "image_base": int(optional.imagebase),
        "entry_point": int(optional.addressof_entrypoint),
        "entry_section": name_of(where.name) if where is not None else None,
        "linker_version": f"{optional.major_linker_version}.{optional.minor_linker_version}",
        "has_aslr": bool(flags & DYNAMIC_BASE),
        "has_dep": bool(flags & NX_COMPAT),
        "has_control_flow_guard": bool(flags & GUARD_CF),
        "has_high_entropy_addresses": bool(flags & HIGH_ENTROPY_VA),
        "checksum": int(optional.checksum),
        "is_checksum_right": int(optional.checksum) in (0, int(executable.binary.compute_checksum())),
    }


def hashes(executable: Executable, findings: Findings) -> dict[str, Any]:
    """Hashes that stay the same over what changes from copy to copy. `imphash`: Mandiant 2014, as pefile has it."""
    del findings
    binary = executable.binary
    rich = binary.rich_header
    return {
        "imphash": lief.PE.get_imphash(binary, lief.PE.IMPHASH_MODE.PEFILE) if len(binary.imports) else None,
        "authentihash_sha256": bytes(binary.authentihash_sha256).hex(),
        "rich_sha256": bytes(rich.hash(lief.PE.ALGORITHMS.SHA_256)).hex() if rich else None,
    }


def section_of(binary: Any, rva: int) -> Any:
    """The section that the address is in when the file is loaded, or None."""
    for section in binary.sections:
        size = max(int(section.virtual_size), int(section.sizeof_raw_data))
        if section.virtual_address <= rva < section.virtual_address + size:
            return section
    return None
