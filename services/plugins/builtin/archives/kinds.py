"""Which container a file is, by its first bytes, and how each kind is read."""

from pathlib import Path

HEAD_BYTES = 34 * 1024  # an ISO image names itself behind 16 sectors of 2048 bytes
_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07\x00", "rar"),
    (0, b"Rar!\x1a\x07\x01\x00", "rar5"),
    (0, b"MSCF\0\0\0\0", "cab"),
    (0, b"!<arch>\n", "ar"),
    (0, b"070701", "cpio"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"\x1f\x9d", "compress"),
    (257, b"ustar", "tar"),
    (0x8001, b"CD001", "iso9660"),
)
COMPRESSED = frozenset({"gzip", "bzip2", "xz", "zstd", "lz4", "compress"})
"""Kinds that hold one stream."""
STREAMED = frozenset({"tar", "cpio", "ar"})
"""Kinds that can be read while they are decompressed."""


def recognise(path: Path) -> str | None:
    """The kind of container, or None."""
    with path.open("rb") as stream:
        return recognised(stream.read(HEAD_BYTES))


def recognised(head: bytes) -> str | None:
    """The kind of container that begins so, or None."""
    return next((kind for offset, magic, kind in _MAGICS if head.startswith(magic, offset)), None)
