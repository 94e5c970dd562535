"""Office documents that the tests make: compound files, VBA projects with harmless text, packages."""

import io
import struct
import zipfile
from dataclasses import dataclass, field

FREE, END, FAT_SECTOR, NONE = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFF
SECTOR, MINI = 512, 64
MINI_CUTOFF = 4096
STORAGE, STREAM, ROOT = 1, 2, 5


@dataclass
class _Entry:
    name: str
    kind: int
    content: bytes = b""
    clsid: bytes = bytes(16)
    children: "list[_Entry]" = field(default_factory=list)
    start: int = END
    right: int = NONE
    child: int = NONE


def compound(streams: dict[str, bytes], clsid: bytes = bytes(16)) -> bytes:
    """A compound file ([MS-CFB], version 3) with these streams; `/` in a name makes storages.

    The siblings of a storage hang in one line to the right: searching them is slow, and allowed to readers that list.
    """
    root = _Entry("Root Entry", ROOT, clsid=clsid)
    for path, content in streams.items():
        *folders, name = path.split("/")
        parent = root
        for folder in folders:
            found = next((one for one in parent.children if one.name == folder), None)
            if found is None:
                found = _Entry(folder, STORAGE)
                parent.children.append(found)
            parent = found
        parent.children.append(_Entry(name, STREAM, content))
    entries = _flat(root)
    sectors: list[bytes] = []
    fat: list[int] = []
    mini = b""
    mini_fat: list[int] = []
    for entry in entries:
        if entry.kind != STREAM or not entry.content:
            continue
        if len(entry.content) < MINI_CUTOFF:
            count = -(-len(entry.content) // MINI)
            entry.start = len(mini_fat)
            mini_fat += [*range(entry.start + 1, entry.start + count), END]
            mini += entry.content.ljust(count * MINI, b"\0")
        else:
            entry.start = _append(sectors, fat, entry.content)
    root.content = mini
    root.start = _append(sectors, fat, mini) if mini else END
    mini_start = _append(sectors, fat, struct.pack(f"<{len(mini_fat)}I", *mini_fat), fill=b"\xff") if mini_fat else END
    directory = b"".join(_directory_entry(entry) for entry in entries)
    directory_start = _append(sectors, fat, directory)
    return _file(sectors, fat, directory_start, mini_start, -(-len(mini_fat) * 4 // SECTOR))


def _flat(root: _Entry) -> list[_Entry]:
    entries = [root]
    for entry in entries:
        if entry.children:
            entry.children.sort(key=lambda one: (len(one.name), one.name.upper()))
            first = len(entries)
            entry.child = first
            for number, child in enumerate(entry.children):
                child.right = first + number + 1 if number + 1 < len(entry.children) else NONE
            entries.extend(entry.children)
    return entries


def _append(sectors: list[bytes], fat: list[int], content: bytes, fill: bytes = b"\0") -> int:
    start, count = len(sectors), -(-len(content) // SECTOR)
    sectors += [content[at : at + SECTOR].ljust(SECTOR, fill) for at in range(0, len(content), SECTOR)]
    fat += [*range(start + 1, start + count), END]
    return start


def _directory_entry(entry: _Entry) -> bytes:
    name = entry.name.encode("utf-16-le") + b"\0\0"
    return struct.pack(
        "<64sHBBIII16sIQQIQ",
        *(name, len(name), entry.kind, 1, NONE, entry.right, entry.child, entry.clsid, 0, 0, 0, entry.start),
        len(entry.content),
    )


def _file(sectors: list[bytes], fat: list[int], directory: int, mini_fat: int, mini_fat_count: int) -> bytes:
    count = 1
    while count * (SECTOR // 4) < len(fat) + count:
        count += 1
    places = list(range(len(sectors), len(sectors) + count))
    table = [*fat, *[FAT_SECTOR] * count]
    table += [FREE] * (count * (SECTOR // 4) - len(table))
    header = struct.pack(
        "<8s16s5H6s9I",
        *(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", bytes(16), 0x3E, 3, 0xFFFE, 9, 6, bytes(6), 0, count, directory, 0),
        *(MINI_CUTOFF, mini_fat, mini_fat_count, END, 0),
    )
    header += struct.pack("<109I", *places, *[FREE] * (109 - count))
    return header + b"".join(sectors) + struct.pack(f"<{len(table)}I", *table)


def compressed(text: bytes) -> bytes:
    """A compressed container ([MS-OVBA] 2.4.1) of literals only."""
    container = b"\x01"
    for start in range(0, len(text), 3600):
        chunk = text[start : start + 3600]
        tokens = b"".join(b"\0" + chunk[at : at + 8] for at in range(0, len(chunk), 8))
        container += struct.pack("<H", (len(tokens) + 2 - 3) | 0xB000) + tokens
    return container


def _record(kind: int, content: bytes) -> bytes:
    return struct.pack("<HI", kind, len(content)) + content


def vba_streams(modules: dict[str, str], prefix: str = "") -> dict[str, bytes]:
    """The streams of a VBA project ([MS-OVBA] 2.3) with these modules."""
    head = b"".join(
        (
            _record(0x01, struct.pack("<I", 1)),
            _record(0x02, struct.pack("<I", 0x409)),
            _record(0x14, struct.pack("<I", 0x409)),
            _record(0x03, struct.pack("<H", 1252)),
            _record(0x04, b"Project"),
            _record(0x05, b"") + _record(0x40, b""),
            _record(0x06, b"") + _record(0x3D, b""),
            _record(0x07, struct.pack("<I", 0)),
            _record(0x08, struct.pack("<I", 0)),
            struct.pack("<HIIH", 0x09, 4, 1, 1),
            _record(0x0C, b"") + _record(0x3C, b""),
            _record(0x0F, struct.pack("<H", len(modules))),
            _record(0x13, struct.pack("<H", 0xFFFF)),
        )
    )
    parts = []
    for name in modules:
        label, wide = name.encode(), name.encode("utf-16-le")
        parts += [
            _record(0x19, label) + _record(0x47, wide),
            _record(0x1A, label) + _record(0x32, wide),
            _record(0x1C, b"") + _record(0x48, b""),
            _record(0x31, struct.pack("<I", 0)),
            _record(0x1E, struct.pack("<I", 0)),
            _record(0x2C, struct.pack("<H", 0xFFFF)),
            _record(0x21, b""),
            _record(0x2B, b""),
        ]
    directory = head + b"".join(parts) + _record(0x10, b"")
    project = "".join(f"Module={name}\r\n" for name in modules)
    return {
        f"{prefix}VBA/dir": compressed(directory),
        f"{prefix}VBA/_VBA_PROJECT": b"\xcc\x61\xff\xff\x00\x00\x00",
        f"{prefix}PROJECT": f'ID="{{0}}"\r\n{project}'.encode(),
        **{f"{prefix}VBA/{name}": compressed(code.encode()) for name, code in modules.items()},
    }


def ole10_native(name: str, path: str, content: bytes) -> bytes:
    """An Ole10Native stream ([MS-OLEDS] 2.3.6) as the packager writes it."""
    inside = struct.pack("<H", 2) + name.encode() + b"\0" + path.encode() + b"\0" + struct.pack("<II", 0x30000, 0)
    inside += path.encode() + b"\0" + struct.pack("<I", len(content)) + content
    return struct.pack("<I", len(inside)) + inside


def package(parts: dict[str, bytes | str]) -> bytes:
    """An OOXML package with these parts and the one that every package has."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def relationships(*targets: tuple[str, str]) -> str:
    """A part of external relationships: (kind, target)."""
    rows = "".join(
        f'<Relationship Id="r{number}" TargetMode="External" Target="{target}" '
        f'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/{kind}"/>'
        for number, (kind, target) in enumerate(targets)
    )
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{rows}</Relationships>'


def document_xml(inside: str) -> str:
    """Word's main part around some XML."""
    name = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    return f'<w:document xmlns:w="{name}"><w:body><w:p>{inside}</w:p></w:body></w:document>'


TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="xml" ContentType="application/xml"/>'
    '<Default Extension="bin" ContentType="application/vnd.ms-office.vbaProject"/>'
    '<Override PartName="/word/document.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
MACRO = (
    'Attribute VB_Name = "Module1"\r\nSub AutoOpen()\r\n'
    '  Dim where As String\r\n  where = "http://c2.example/a.txt"\r\n'
    '  Set wanted = CreateObject("MSXML2.XMLHTTP")\r\n'
    '  Shell "calc.exe", vbHide\r\n  hidden = Chr(104) & Chr(105) & Chr(33) & Chr(33)\r\nEnd Sub\r\n'
)
QUIET_MACRO = 'Attribute VB_Name = "Module1"\r\nSub Tidy()\r\n  Selection.Font.Bold = True\r\nEnd Sub\r\n'
