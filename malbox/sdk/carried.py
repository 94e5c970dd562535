"""Which bytes inside of a file are a file of their own that may act: a program, or an archive that may hold one.

Told by the first bytes alone, so that it costs nothing; what the content is in truth says the task that it gets.
"""

from dataclasses import dataclass

SETTINGS_MAX_BYTES = 64 * 1024
_7Z = b"7z\xbc\xaf\x27\x1c"
_7Z_SETTINGS = b";!@Install@!"
"""What 7-Zip's self-extracting archives have between the program and the archive: a text far below the bound."""


@dataclass(frozen=True)
class Carried:
    """A file inside: what it begins like, the suffix that goes with that, and where it begins."""

    words: str
    suffix: str
    is_program: bool = False
    offset: int = 0


_MAGICS: tuple[tuple[bytes, Carried], ...] = (
    (b"MZ", Carried("Windows program", "exe", is_program=True)),
    (b"\x7fELF", Carried("Linux program", "elf", is_program=True)),
    (b"PK\x03\x04", Carried("ZIP archive", "zip")),
    (_7Z, Carried("7-Zip archive", "7z")),
    (b"Rar!\x1a\x07", Carried("RAR archive", "rar")),
    (b"MSCF\0\0\0\0", Carried("Cabinet archive", "cab")),
)


def carried(content: bytes) -> Carried | None:
    """What the content is, or None for everything that is of no use alone."""
    for magic, found in _MAGICS:
        if content.startswith(magic):
            return found
    if content.lstrip(b"\xef\xbb\xbf\r\n").startswith(_7Z_SETTINGS):
        offset = content.find(_7Z, 0, SETTINGS_MAX_BYTES)
        if offset > 0:
            return Carried("7-Zip archive", "7z", offset=offset)
    return None
