"""A .NET assembly made in code, after ECMA-335: metadata only, and no method that could be run."""

import struct
from collections.abc import Sequence

from tests.unit.plugins.pe_files import CLR, READ_ONLY, Part, Portable, next_rva

MODULE, TYPE_DEF, MEMBER_REF, MODULE_REF, ASSEMBLY, ASSEMBLY_REF = 0x00, 0x02, 0x0A, 0x1A, 0x20, 0x23


class Strings:
    """The heap of names."""

    def __init__(self) -> None:
        self.content = b"\0"

    def add(self, text: str) -> int:
        """The index of the name."""
        index = len(self.content)
        self.content += text.encode() + b"\0"
        return index


def assembly(
    name: str, *, references: Sequence[str], types: Sequence[str], members: Sequence[str], native: Sequence[str]
) -> Portable:
    """A file that is a .NET assembly of that name and version 1.2.3.4."""
    made = Portable()
    rva = next_rva(made.parts)
    metadata = _metadata(name, references, types, members, native)
    header = struct.pack("<IHHIIII", 72, 2, 5, rva + 72, len(metadata), 1, 0).ljust(72, b"\0")
    made.parts.append(Part(b".clr", header + metadata, READ_ONLY))
    made.directories[CLR] = (rva, 72)
    return made


def _metadata(
    name: str, references: Sequence[str], types: Sequence[str], members: Sequence[str], native: Sequence[str]
) -> bytes:
    heap = Strings()
    tables: dict[int, list[bytes]] = {
        MODULE: [struct.pack("<HHHHH", 0, heap.add(f"{name}.exe"), 1, 0, 0)],
        TYPE_DEF: [struct.pack("<IHHHHH", 0, heap.add(one), heap.add("Space"), 0, 1, 1) for one in types],
        MEMBER_REF: [struct.pack("<HHH", 0, heap.add(one), 0) for one in members],
        MODULE_REF: [struct.pack("<H", heap.add(one)) for one in native],
        ASSEMBLY: [struct.pack("<IHHHHIHHH", 0x8004, 1, 2, 3, 4, 0, 0, heap.add(name), 0)],
        ASSEMBLY_REF: [struct.pack("<HHHHIHHHH", 4, 0, 0, 0, 0, 0, heap.add(one), 0, 0) for one in references],
    }
    valid = sum(1 << number for number, rows in tables.items() if rows)
    head = struct.pack("<IBBBBQQ", 0, 2, 0, 0, 1, valid, 0)
    counts = b"".join(struct.pack("<I", len(rows)) for _, rows in sorted(tables.items()) if rows)
    rows = b"".join(b"".join(rows) for _, rows in sorted(tables.items()))
    streams = {b"#~": head + counts + rows, b"#Strings": heap.content, b"#GUID": bytes(16), b"#Blob": b"\0"}
    return _root(streams)


def _root(streams: dict[bytes, bytes]) -> bytes:
    version = b"v4.0.30319".ljust(12, b"\0")
    root = struct.pack("<IHHII", 0x424A5342, 1, 1, 0, len(version)) + version + struct.pack("<HH", 0, len(streams))
    offset = len(root) + sum(8 + _padded(len(name) + 1) for name in streams)
    headers, body = b"", b""
    for name, content in streams.items():
        padded = content.ljust(_padded(len(content)), b"\0")
        headers += struct.pack("<II", offset + len(body), len(padded)) + name.ljust(_padded(len(name) + 1), b"\0")
        body += padded
    return root + headers + body


def _padded(size: int) -> int:
    return -(-size // 4) * 4
