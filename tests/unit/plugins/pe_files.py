"""Portable executables made in code, field by field after Microsoft's specification. None of them does anything.

The first section begins at RVA 0x1000, each at a multiple of 0x1000, so that a test can place what it needs.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FILE_ALIGNMENT = 0x200
SECTION_ALIGNMENT = 0x1000
FIRST_RVA = 0x1000
EXECUTABLE, READABLE, WRITABLE = 0x20000000, 0x40000000, 0x80000000
CODE = 0x20 | EXECUTABLE | READABLE
DATA = 0x40 | READABLE | WRITABLE
READ_ONLY = 0x40 | READABLE
RETURNS = b"\x31\xc0\xc3"  # xor eax, eax; ret

EXPORT, IMPORT, RESOURCE, SECURITY, DEBUG, TLS, CLR = 0, 1, 2, 4, 6, 9, 14


@dataclass
class Part:
    """A section."""

    name: bytes
    content: bytes
    flags: int = CODE
    virtual_size: int = 0


@dataclass
class Portable:
    """What goes into a file. `directories`: number -> (RVA, size)."""

    parts: list[Part] = field(default_factory=lambda: [Part(b".text", RETURNS)])
    directories: dict[int, tuple[int, int]] = field(default_factory=dict)
    entry: int = FIRST_RVA
    characteristics: int = 0x0022  # an executable image that knows large addresses
    timestamp: int = 0x5F000000
    stub: bytes = b""
    overlay: bytes = b""

    def build(self) -> bytes:
        """The file's bytes, PE32+ for x86-64."""
        lfanew = 0x40 + len(self.stub)
        headers_bytes = _aligned(lfanew + 24 + 240 + 40 * len(self.parts), FILE_ALIGNMENT)
        table, body, rva = b"", b"", FIRST_RVA
        for part in self.parts:
            raw = part.content.ljust(_aligned(len(part.content), FILE_ALIGNMENT), b"\0")
            size = part.virtual_size or len(part.content)
            where = headers_bytes + len(body) if raw else 0
            table += struct.pack("<8sIIIIIIHHI", part.name, size, rva, len(raw), where, 0, 0, 0, 0, part.flags)
            body += raw
            rva += _aligned(max(size, len(raw), 1), SECTION_ALIGNMENT)
        dos = b"MZ" + bytes(58) + struct.pack("<I", lfanew) + self.stub
        coff = struct.pack("<HHIIIHH", 0x8664, len(self.parts), self.timestamp, 0, 0, 240, self.characteristics)
        head = dos + b"PE\0\0" + coff + self._optional_header(rva, headers_bytes) + table
        return head.ljust(headers_bytes, b"\0") + body + self.overlay

    def _optional_header(self, image_bytes: int, headers_bytes: int) -> bytes:
        directories = b"".join(struct.pack("<II", *self.directories.get(number, (0, 0))) for number in range(16))
        fields = struct.pack(
            "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
            *(0x20B, 14, 0, FILE_ALIGNMENT, 0, 0, self.entry, FIRST_RVA, 0x140000000),
            *(SECTION_ALIGNMENT, FILE_ALIGNMENT, 6, 0, 0, 0, 6, 0, 0, image_bytes, headers_bytes, 0, 3, 0x8160),
            *(0x100000, 0x1000, 0x100000, 0x1000, 0, 16),
        )
        return fields + directories


def with_imports(libraries: Mapping[str, Sequence[str]], **changes: object) -> Portable:
    """A file that imports these functions by name."""
    made = Portable(**changes)  # type: ignore[arg-type]
    rva = next_rva(made.parts)
    content = imports(rva, libraries)
    made.parts.append(Part(b".idata", content, DATA))
    made.directories[IMPORT] = (rva, len(content))
    return made


def next_rva(parts: Sequence[Part]) -> int:
    """Where the next section will begin."""
    sizes = (max(part.virtual_size, len(part.content), 1) for part in parts)
    return FIRST_RVA + sum(_aligned(_aligned(size, FILE_ALIGNMENT), SECTION_ALIGNMENT) for size in sizes)


def imports(rva: int, libraries: Mapping[str, Sequence[str]]) -> bytes:
    """An import directory at its beginning, with all that it points to."""
    descriptors, rest = b"", b""
    base = rva + 20 * (len(libraries) + 1)
    for library, names in libraries.items():
        name_rva = base + len(rest)
        rest += _even(library.encode() + b"\0")
        thunks = b""
        for name in names:
            thunks += struct.pack("<Q", base + len(rest))
            rest += _even(b"\0\0" + name.encode() + b"\0")
        rest += bytes(-len(rest) % 8)
        table = base + len(rest)
        rest += (thunks + bytes(8)) * 2
        descriptors += struct.pack("<IIIII", table, 0, 0, name_rva, table + len(thunks) + 8)
    return descriptors + bytes(20) + rest


def exports(rva: int, library: str, names: Sequence[str]) -> bytes:
    """An export directory; every function is the entry point."""
    count = len(names)
    functions, pointers, ordinals = rva + 40, rva + 40 + 4 * count, rva + 40 + 8 * count
    base = rva + 40 + 10 * count
    text = library.encode() + b"\0"
    where = []
    for name in names:
        where.append(base + len(text))
        text += name.encode() + b"\0"
    directory = struct.pack("<IIHHIIIIIII", 0, 0, 0, 0, base, 1, count, count, functions, pointers, ordinals)
    tables = struct.pack(f"<{count}I", *[FIRST_RVA] * count) + struct.pack(f"<{count}I", *where)
    return directory + tables + struct.pack(f"<{count}H", *range(count)) + text


def resources(rva: int, found: Mapping[tuple[int, int, int], bytes]) -> bytes:
    """A resource directory: (type, id, language) -> content. One leaf below each type and each id."""
    count = len(found)
    directory_bytes = 16 + 8 * count
    node_bytes = 24
    entries = directory_bytes + 2 * node_bytes * count
    data = entries + 16 * count
    root = struct.pack("<IIHHHH", 0, 0, 0, 0, 0, count)
    nodes, leaves, contents = b"", b"", b""
    for index, ((kind, name, language), content) in enumerate(found.items()):
        first = directory_bytes + 2 * node_bytes * index
        root += struct.pack("<II", kind, 0x80000000 | first)
        nodes += struct.pack("<IIHHHHII", 0, 0, 0, 0, 0, 1, name, 0x80000000 | (first + node_bytes))
        nodes += struct.pack("<IIHHHHII", 0, 0, 0, 0, 0, 1, language, entries + 16 * index)
        leaves += struct.pack("<IIII", rva + data + len(contents), len(content), 0, 0)
        contents += content + bytes(-len(content) % 8)
    return root + nodes + leaves + contents


def version_info(values: Mapping[str, str]) -> bytes:
    """A VS_VERSIONINFO resource with one table of strings in English."""
    fixed = struct.pack("<13I", 0xFEEF04BD, 0x10000, 0x10002, 3, 0x10002, 3, 0x3F, 0, 0x40004, 1, 0, 0, 0)
    strings = b"".join(
        _block(key, (value + "\0").encode("utf-16-le"), b"", is_text=True) for key, value in values.items()
    )
    table = _block("040904b0", b"", strings, is_text=True)
    return _block("VS_VERSION_INFO", fixed, _block("StringFileInfo", b"", table, is_text=True), is_text=False)


def debug(rva: int, file_offset: int, pdb: str) -> bytes:
    """A debug directory with one CodeView entry that names a file of symbols."""
    view = b"RSDS" + bytes(range(16)) + struct.pack("<I", 1) + pdb.encode() + b"\0"
    return struct.pack("<IIHHIIII", 0, 0, 0, 0, 2, len(view), rva + 28, file_offset + 28) + view


def tls(rva: int, callback_rvas: Sequence[int]) -> bytes:
    """A TLS directory and its callbacks."""
    base = 0x140000000 + rva
    directory = struct.pack("<QQQQII", base, base, base, base + 40, 0, 0)
    return directory + b"".join(struct.pack("<Q", 0x140000000 + one) for one in callback_rvas) + bytes(8)


def rich(entries: Sequence[tuple[int, int, int]], key: int = 0x11223344) -> bytes:
    """A rich header for the stub: (product, build, count) of each tool."""
    words = [0x536E6144, 0, 0, 0]  # DanS
    for product, build, count in entries:
        words += [product << 16 | build, count]
    return struct.pack(f"<{len(words)}I", *(word ^ key for word in words)) + b"Rich" + struct.pack("<I", key)


def _block(key: str, value: bytes, children: bytes, *, is_text: bool) -> bytes:
    name = key.encode("utf-16-le") + b"\0\0"
    head = name + bytes(-(6 + len(name)) % 4) + value
    head += bytes(-(6 + len(head)) % 4) if children else b""
    length = 6 + len(head) + len(children)
    words = len(value) // 2 if is_text else len(value)
    made = struct.pack("<HHH", length, words, 1 if is_text else 0) + head + children
    return made + bytes(-len(made) % 4)


def _even(content: bytes) -> bytes:
    return content + bytes(len(content) % 2)


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
