"""Mach-O files made in code, after Apple's <mach-o/loader.h> and <kern/cs_blobs.h>. None of them does anything."""

import plistlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

X86_64, ARM64 = 0x01000007, 0x0100000C
READ, WRITE, EXECUTE = 1, 2, 4
SEGMENT_64, SYMTAB, DYSYMTAB, LOAD_DYLIB, RPATH, UUID, CODE_SIGNATURE, ENCRYPTION_64, BUILD_VERSION, MAIN = (
    0x19, 0x2, 0xB, 0xC, 0x8000001C, 0x1B, 0x1D, 0x2C, 0x32, 0x80000028,
)  # fmt: skip
TEXT_AT = 0x1000
BASE = 0x100000000
RETURNS = b"\x31\xc0\xc3"  # xor eax, eax; ret


@dataclass
class MachO:
    """What goes into a 64-bit executable. `identifier` None: not signed."""

    code: bytes = RETURNS
    rights: int = READ | EXECUTE
    libraries: Sequence[str] = ("/usr/lib/libSystem.B.dylib",)
    rpaths: Sequence[str] = ()
    cpu: int = X86_64
    identifier: str | None = None
    flags: int = 0x2  # CS_ADHOC
    entitlements: Mapping[str, object] | None = None
    is_encrypted: bool = False
    imports: Sequence[str] = ("_printf",)
    exports: Sequence[str] = ("_start_here",)

    def build(self) -> bytes:
        """The file's bytes."""
        code = self.code.ljust(-(-len(self.code) // 0x1000) * 0x1000, b"\0")
        signature = b"" if self.identifier is None else signature_of(self.identifier, self.flags, self.entitlements)
        linkedit_at = TEXT_AT + len(code)
        symbols, names = symbol_table(self.imports, self.exports)
        names_at = linkedit_at + len(symbols)
        signature_at = names_at + len(names)
        linkedit = symbols + names + signature
        commands = [
            segment("__TEXT", (0, TEXT_AT + len(code)), self.rights, len(self.code)),
            segment("__LINKEDIT", (linkedit_at, len(linkedit)), READ),
            struct.pack("<IIIIII", SYMTAB, 24, linkedit_at, len(symbols) // 16, names_at, len(names)),
            struct.pack(
                "<II18I", DYSYMTAB, 80, 0, 0, 0, len(self.exports), len(self.exports), len(self.imports), *[0] * 12
            ),
            struct.pack("<II", UUID, 24) + bytes(range(16)),
            struct.pack("<IIIIII", BUILD_VERSION, 24, 1, 0x000B0000, 0x000C0300, 0),
            struct.pack("<IIQQ", MAIN, 24, TEXT_AT, 0),
            *(_named(LOAD_DYLIB, name, struct.pack("<III", 2, 0x00010203, 0x00010000)) for name in self.libraries),
            *(_named(RPATH, path, b"") for path in self.rpaths),
        ]
        if self.is_encrypted:
            commands.append(struct.pack("<IIIIII", ENCRYPTION_64, 24, TEXT_AT, len(code), 1, 0))
        if signature:
            commands.append(struct.pack("<IIII", CODE_SIGNATURE, 16, signature_at, len(signature)))
        body = b"".join(commands)
        header = struct.pack("<IIIIIIII", 0xFEEDFACF, self.cpu, 3, 2, len(commands), len(body), 0x00200085, 0)
        return (header + body).ljust(TEXT_AT, b"\0") + code + linkedit


def universal(*images: tuple[int, bytes]) -> bytes:
    """One file of several architectures: (cpu, image)."""
    content = struct.pack(">II", 0xCAFEBABE, len(images))
    at, body = 0x1000, b""
    for cpu, image in images:
        content += struct.pack(">IIIII", cpu, 3, at + len(body), len(image), 12)
        body += image.ljust(-(-len(image) // 0x1000) * 0x1000, b"\0")
    return content.ljust(0x1000, b"\0") + body


def segment(name: str, place: tuple[int, int], rights: int, code_bytes: int = 0) -> bytes:
    """LC_SEGMENT_64 of an (offset, size), with one section where there is code."""
    count, (offset, size) = (1 if code_bytes else 0), place
    made = struct.pack(
        "<II16sQQQQiiII",
        *(SEGMENT_64, 72 + 80 * count, name.encode(), BASE + offset, size, offset, size, 7, rights, count, 0),
    )
    if code_bytes:
        made += struct.pack(
            "<16s16sQQIIIIIIII",
            *(b"__text", name.encode(), BASE + TEXT_AT, code_bytes, TEXT_AT, 0, 0, 0, 0x80000400, 0, 0, 0),
        )
    return made


def symbol_table(imports: Sequence[str], exports: Sequence[str]) -> tuple[bytes, bytes]:
    """LC_SYMTAB's two tables: undefined symbols of the first library, and symbols of the first section."""
    entries, names = b"", b"\0"
    for name, kind, section, library, value in (
        *((name, 0x0F, 1, 0, BASE + TEXT_AT) for name in exports),
        *((name, 0x01, 0, 0x100, 0) for name in imports),
    ):
        entries += struct.pack("<IBBHQ", len(names), kind, section, library, value)
        names += name.encode() + b"\0"
    return entries, names + bytes(-len(names) % 16)


def signature_of(identifier: str, flags: int, entitlements: Mapping[str, object] | None) -> bytes:
    """A super blob: a code directory without hashes, and the entitlements."""
    blobs = [(0, code_directory(identifier, flags))]
    if entitlements is not None:
        blobs.append((5, _blob(0xFADE7171, plistlib.dumps(dict(entitlements)))))
    at, index, body = 12 + 8 * len(blobs), b"", b""
    for kind, blob in blobs:
        index += struct.pack(">II", kind, at + len(body))
        body += blob
    return struct.pack(">III", 0xFADE0CC0, at + len(body), len(blobs)) + index + body


def code_directory(identifier: str, flags: int, team: str = "TEAM123456") -> bytes:
    """CS_CodeDirectory, version 0x20200, which has a team."""
    names = identifier.encode() + b"\0" + team.encode() + b"\0"
    at = 52
    fields = struct.pack(
        ">IIIIIIIBBBBIII",
        *(0x20200, flags, at + len(names), at, 0, 0, 0, 32, 2, 0, 12, 0, 0, at + len(identifier) + 1),
    )
    return _blob(0xFADE0C02, fields + names)


def _blob(magic: int, content: bytes) -> bytes:
    return struct.pack(">II", magic, 8 + len(content)) + content


def _named(command: int, name: str, fields: bytes) -> bytes:
    offset = 12 + len(fields)
    content = struct.pack("<I", offset) + fields + name.encode() + b"\0"
    content += bytes(-(8 + len(content)) % 8)
    return struct.pack("<II", command, 8 + len(content)) + content
