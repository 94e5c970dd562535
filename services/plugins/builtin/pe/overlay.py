"""What is appended behind the last section and belongs to no part of the program."""

from typing import Any

from malbox.sdk.entropy import HIGH_BITS, entropy_bits
from malbox.sdk.executables import Executable
from malbox.sdk.findings import Findings

SECURITY_DIRECTORY = 4
NSIS_AT = 4  # after the flags of its header
INSTALLERS = ((NSIS_AT, b"\xef\xbe\xad\xdeNullsoftInst", "NSIS installer"), (0, b"zlb\x1a", "Inno Setup installer"))


def overlay(executable: Executable, _findings: Findings) -> dict[str, Any] | None:
    """Where it begins, how large it is, and what it begins like; None: there is none but the signature."""
    ends = [int(one.offset) + int(one.sizeof_raw_data) for one in executable.binary.sections]
    begin = max(ends, default=len(executable.content))
    begin, end = _without_signature(executable, begin)
    if begin >= end:
        return None
    content = executable.content[begin:end]
    inside = executable.carries(f"overlay at {begin:#x}", content, end - begin)
    installer = next((words for at, magic, words in INSTALLERS if content.startswith(magic, at)), None)
    entropy = entropy_bits(content)
    return {
        "offset": begin,
        "size_bytes": end - begin,
        "entropy": entropy,
        "is_high_entropy": entropy >= HIGH_BITS,
        "kind": inside.words if inside is not None else installer,
    }


def _without_signature(executable: Executable, begin: int) -> tuple[int, int]:
    """The signature is appended too, and is none of it. Its directory holds an offset, not an RVA."""
    directory = executable.binary.data_directories[SECURITY_DIRECTORY]
    first, last = int(directory.rva), int(directory.rva) + int(directory.size)
    if not int(directory.size) or first < begin:
        return begin, executable.size_bytes
    if first == begin:
        return last, executable.size_bytes
    return begin, first
