"""Archives that the tests make: whole ones of every kind, and thirty-odd that attack whoever unpacks them."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import libarchive
import py7zr
import pyzipper

MIB = 1024 * 1024
ZEROS = bytes(24 * MIB)
TURNED = bytes(range(255, -1, -1))
Files = dict[str, bytes]


@dataclass(frozen=True)
class Scale:
    """How large the bombs are that have to be larger than what they are tried against."""

    entries: int
    file_bytes: int


def zipped(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A plain ZIP."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def zipped_aes(files: Files, password: str) -> bytes:
    """A ZIP with AES-256."""
    buffer = io.BytesIO()
    with pyzipper.AESZipFile(buffer, "w", compression=pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES) as archive:
        archive.setpassword(password.encode())
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def seven_zipped(files: Files, password: str | None = None, *, is_header_encrypted: bool = False) -> bytes:
    """A 7z archive."""
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w", password=password, header_encryption=is_header_encrypted) as archive:
        for name, content in files.items():
            archive.writestr(content, name)
    return buffer.getvalue()


HUGE_DICTIONARY = struct.pack("<I", 0xF000_0000)
"""LZMA takes so much memory before the first byte comes out, if a header says so."""


def seven_zipped_for_giants(files: Files, password: str) -> bytes:
    """An encrypted 7z archive whose header asks for a dictionary of 3.75 GiB."""
    buffer = io.BytesIO()
    filters = [{"id": py7zr.FILTER_LZMA, "dict_size": MIB}, {"id": py7zr.FILTER_CRYPTO_AES256_SHA256}]
    with py7zr.SevenZipFile(buffer, "w", filters=filters, password=password) as archive:
        archive.set_encoded_header_mode(mode=False)
        for name, content in files.items():
            archive.writestr(content, name)
    whole = bytearray(buffer.getvalue())
    offset, size = struct.unpack_from("<QQ", whole, 12)
    header = whole[32 + offset : 32 + offset + size]
    at = header.index(b"\x23\x03\x01\x01\x05") + 6  # the coder's id, and what it is told: one byte, the dictionary
    header[at : at + 4] = HUGE_DICTIONARY
    whole[32 + offset : 32 + offset + size] = header
    struct.pack_into("<I", whole, 28, zlib.crc32(header))
    struct.pack_into("<I", whole, 8, zlib.crc32(whole[12:32]))
    return bytes(whole)


def zipped_for_giants(name: str, files: Files) -> bytes:
    """A ZIP whose first entry asks for a dictionary of 3.75 GiB; the others are as usual."""
    whole = bytearray(zipped({name: b"x" * 100}, zipfile.ZIP_LZMA))
    at = 30 + len(name) + 5  # the local header, the version of LZMA and the length of what follows, one byte of it
    whole[at : at + 4] = HUGE_DICTIONARY
    buffer = io.BytesIO(bytes(whole))
    with zipfile.ZipFile(buffer, "a") as archive:
        for other, content in files.items():
            archive.writestr(other, content)
    return buffer.getvalue()


def tarred(files: Files, mode: str = "w") -> bytes:
    """A tar archive, compressed as the mode of `tarfile` says."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def linked(*targets: str) -> bytes:
    """A tar of symbolic links, and of files that would be written through them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, target in enumerate(targets):
            link = tarfile.TarInfo(f"link{number}")
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
            through = tarfile.TarInfo(f"link{number}/file")
            through.size = 1
            archive.addfile(through, io.BytesIO(b"x"))
    return buffer.getvalue()


def written(files: Files, kind: str, compression: str | None = None) -> bytes:
    """What libarchive writes: iso9660, cpio_newc, 7zip, raw with a compression."""
    buffer = io.BytesIO()
    with libarchive.custom_writer(buffer.write, kind, compression) as archive:
        for name, content in files.items():
            archive.add_file_from_memory(name, len(content), content)
    return buffer.getvalue()


def cabinet(name: str, content: bytes, stated_bytes: int | None = None) -> bytes:
    """A CAB with one stored file ([MS-CAB] 2)."""
    label = name.encode() + b"\0"
    data_at = 36 + 8 + 16 + len(label)
    blocks = [content[start : start + 0x8000] for start in range(0, len(content), 0x8000)]
    data = b"".join(struct.pack("<IHH", 0, len(block), len(block)) + block for block in blocks)
    folder = struct.pack("<IHH", data_at, len(blocks), 0)
    file = struct.pack("<IIHHHH", stated_bytes or len(content), 0, 0, 0, 0, 0x20) + label
    header = struct.pack("<4sIIIIIBBHHHHH", b"MSCF", 0, data_at + len(data), 0, 44, 0, 3, 1, 1, 1, 0, 0, 0)
    return header + folder + file + data


def zipped_classically(files: Files, password: str) -> bytes:
    """A ZIP of stored entries with the classic encryption (APPNOTE 6.1)."""
    body, directory = b"", b""
    for name, content in files.items():
        total = zlib.crc32(content)
        data = _enciphered(bytes(11) + bytes([total >> 24]) + content, password)
        entry = struct.pack("<5H3I2H", 20, 1, 0, 0, 0x21, total, len(data), len(content), len(name), 0)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + entry
        directory += struct.pack("<3H2I", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\x03\x04" + entry + name.encode() + data
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(files), len(files), len(directory), len(body), 0)
    return body + directory + end


def _enciphered(content: bytes, password: str) -> bytes:
    keys = [0x12345678, 0x23456789, 0x34567890]

    def crc(value: int, byte: int) -> int:
        """One step of CRC-32 without its inversions, which zlib does around it."""
        return zlib.crc32(bytes([byte]), value ^ 0xFFFFFFFF) ^ 0xFFFFFFFF

    def update(byte: int) -> None:
        keys[0] = crc(keys[0], byte)
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = crc(keys[2], keys[1] >> 24)

    for byte in password.encode():
        update(byte)
    enciphered = bytearray()
    for byte in content:
        pad = (keys[2] | 2) & 0xFFFF
        enciphered.append(byte ^ (pad * (pad ^ 1) >> 8) & 0xFF)
        update(byte)
    return bytes(enciphered)


def rar(files: Files, *, is_encrypted: bool = False) -> bytes:
    """A RAR archive of version 4 with stored files (technote.txt of unrar). Encrypted: its sums are of other bytes."""

    def block(kind: int, flags: int, fields: bytes, content: bytes = b"") -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head + content

    made = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, content in files.items():
        sizes = struct.pack("<IIBIIBB", len(content), len(content), 3, zlib.crc32(content), 0x58210000, 20, 0x30)
        fields = sizes + struct.pack("<HI", len(name), 0o100644) + name.encode()
        stored = content.translate(TURNED) if is_encrypted else content
        made += block(0x74, 0x8004 if is_encrypted else 0x8000, fields, stored)
    return made + block(0x7B, 0x4000, b"")


def rar5(files: Files, *, is_encrypted: bool = False) -> bytes:
    """A RAR archive of version 5 with stored files (RAR 5.0 archive format). Encrypted: its sums are of other bytes."""

    def number(value: int) -> bytes:
        more = value >> 7
        return bytes([value & 0x7F | 0x80]) + number(more) if more else bytes([value])

    def block(*numbers: int, rest: bytes = b"", content: bytes = b"") -> bytes:
        fields = b"".join(map(number, numbers)) + rest
        head = number(len(fields)) + fields
        return struct.pack("<I", zlib.crc32(head)) + head + content

    made = b"Rar!\x1a\x07\x01\x00" + block(1, 0, 0)
    for name, content in files.items():
        behind = struct.pack("<I", zlib.crc32(content)) + number(0) + number(1) + number(len(name)) + name.encode()
        sizes = (len(content), 4, len(content), 0o644)
        if is_encrypted:  # a record of encryption: version, flags, rounds, salt, initialisation vector
            record = b"\x01\x00\x00\x0f" + bytes(32)
            behind += number(len(record)) + record
            made += block(2, 3, len(record) + 1, *sizes, rest=behind, content=content.translate(TURNED))
        else:
            made += block(2, 2, *sizes, rest=behind, content=content)
    return made + block(5, 0, 0)


def compressed(content: bytes) -> bytes:
    """A short file as compress(1) packs it: LZW with codes of 9 bits, which are enough for 255 phrases."""
    phrases = {bytes([byte]): byte for byte in range(256)}
    packed, bits, phrase = 0, 0, b""
    for byte in [*content, None]:
        longer = phrase + bytes([byte]) if byte is not None else b""
        if longer in phrases:
            phrase = longer
            continue
        packed |= phrases[phrase] << bits
        bits += 9
        phrases[longer] = len(phrases) + 1  # 256 is the code that forgets all phrases
        phrase = longer[-1:]
    assert len(phrases) < 512
    return b"\x1f\x9d\x90" + packed.to_bytes(-(-bits // 8), "little")


def overlapping(count: int, content: bytes, step: int = 0) -> bytes:
    """A ZIP whose directory names the same bytes many times, each entry beginning `step` bytes further on."""
    packed = zlib.compress(content, 9)[2:-4]
    head = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0, zlib.crc32(content), len(packed), len(content), 1, 0)
    body = head + b"a" + packed
    directory = b"".join(
        struct.pack(
            "<4s6H3I5H2I",
            *(b"PK\x01\x02", 20, 20, 0, 8, 0, 0, zlib.crc32(content), len(packed), len(content), 1, 0, 0, 0, 0, 0),
            step * number,
        )
        + b"a"
        for number in range(count)
    )
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, len(directory), len(body), 0)
    return body + directory + end


def nested(depth: int, wrap: Callable[[bytes], bytes], core: bytes = b"core") -> bytes:
    """The same wrapping again and again."""
    for _ in range(depth):
        core = wrap(core)
    return core


def in_zip(*contents: bytes) -> bytes:
    """Numbered files in a ZIP."""
    return zipped({f"{number}.zip": content for number, content in enumerate(contents)})


def tar_header(name: str, size: int, pax: dict[str, str] | None = None) -> bytes:
    """A tar header that states what it likes; the size in the base-256 form of GNU tar."""
    member = tarfile.TarInfo(name)
    member.size, member.pax_headers = size, pax or {}
    return member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


def lying_zip(stated_bytes: int, **fields: int) -> bytes:
    """A ZIP whose directory states sizes that are none."""
    content = bytearray(zipped({"a": b"hello"}))
    at = content.rfind(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", stated_bytes & 0xFFFFFFFF)
    end = content.rfind(b"PK\x05\x06")
    if "directory_bytes" in fields:
        content[end + 12 : end + 16] = struct.pack("<I", fields["directory_bytes"])
    return bytes(content)


def distinct(depth: int, width: int, path: str = "") -> bytes:
    """Nested ZIPs, every one of them different, so that none is recognised as seen."""
    if depth == 0:
        return path.encode()
    return in_zip(*(distinct(depth - 1, width, f"{path}/{number}") for number in range(width)))


def many(count: int, suffix: str = "") -> bytes:
    """A ZIP of so many empty entries."""
    return zipped({f"{number}{suffix}": b"" for number in range(count)}, zipfile.ZIP_STORED)


SPARSE = {
    "GNU.sparse.major": "1",
    "GNU.sparse.minor": "0",
    "GNU.sparse.name": "a",
    "GNU.sparse.realsize": str(2**40),
}
BOMBS: dict[str, tuple[Callable[[Scale], bytes], str]] = {
    "zip, ratio": (lambda _: zipped({"a": ZEROS}), "ratio"),
    "zip, ratio over several files": (lambda _: zipped({str(n): bytes(MIB) + bytes([n]) for n in range(24)}), "ratio"),
    "zip, bzip2 inside": (lambda _: zipped({"a": ZEROS}, zipfile.ZIP_BZIP2), "ratio"),
    "zip, lzma inside": (lambda _: zipped({"a": ZEROS}, zipfile.ZIP_LZMA), "ratio"),
    "zip, AES": (lambda _: zipped_aes({"a": ZEROS}, "infected"), "ratio"),
    "gzip": (lambda _: gzip.compress(ZEROS), "ratio"),
    "gzip, many members": (lambda _: gzip.compress(bytes(MIB)) * 24, "ratio"),
    "bzip2": (lambda _: bz2.compress(ZEROS), "ratio"),
    "xz": (lambda _: lzma.compress(ZEROS), "ratio"),
    "zstd": (lambda _: written({"a": ZEROS}, "raw", "zstd"), "ratio"),
    "lz4": (lambda at: written({"a": bytes(at.file_bytes)}, "raw", "lz4"), "file_bytes"),
    "7z": (lambda _: seven_zipped({"a": ZEROS}), "ratio"),
    "7z, encrypted": (lambda _: seven_zipped({"a": ZEROS}, "infected"), "ratio"),
    "7z, many files": (lambda at: seven_zipped({str(n): b"" for n in range(at.entries)}), "entries"),
    "tar.gz": (lambda _: tarred({"a": ZEROS}, "w:gz"), "ratio"),
    "tar, many files": (lambda at: tarred({str(n): b"" for n in range(at.entries)}), "entries"),
    "tar, a hole of a terabyte": (
        lambda _: tar_header("a", 513, pax=SPARSE) + b"1\n1099511627775\n1\n".ljust(512, b"\0") + bytes(2048),
        "ratio",
    ),
    "cpio in gzip": (lambda _: written({"a": ZEROS}, "cpio_newc", "gzip"), "ratio"),
    "iso, larger than a file may be": (lambda at: written({"a": bytes(at.file_bytes)}, "iso9660"), "file_bytes"),
    "zip in zip in zip": (lambda _: nested(20, in_zip), "depth"),
    "gzip in gzip in gzip": (lambda _: nested(40, gzip.compress), "depth"),
    "tar in xz in tar": (lambda _: nested(12, lambda core: lzma.compress(tarred({"a": core}))), "depth"),
    "zeros packed twice": (lambda _: gzip.compress(gzip.compress(ZEROS)), "ratio"),
    "sixteen zips in each of sixteen zips": (
        lambda _: nested(5, lambda core: in_zip(*[core] * 16), zipped({"a": ZEROS})),
        "ratio",
    ),
    "different zips in each of different zips": (lambda _: distinct(3, 5), "children"),
    "zip, the same bytes two hundred times": (lambda _: overlapping(200, bytes(MIB)), "overlap"),
    "zip, entries that begin inside each other": (lambda _: overlapping(200, bytes(MIB), step=1), "overlap"),
    "zip, many files": (lambda at: many(at.entries), "entries"),
    "zip, many empty directories": (lambda at: many(at.entries, "/"), "entries"),
    "zip, many links and names that climb": (lambda at: many(at.entries, "/../../../x"), "entries"),
    "zip, a directory of four gigabytes": (lambda _: lying_zip(5, directory_bytes=0xFFFFFFF0), "entries"),
    "cpio, many files": (lambda at: written({str(n): b"" for n in range(at.entries)}, "cpio_newc"), "entries"),
}
"""Name -> how it is made at a scale, and the budget that it is to meet."""

LIARS: dict[str, Callable[[], bytes]] = {
    "zip, stated as four gigabytes": lambda: lying_zip(0xFFFFFFFE),
    "tar, stated as eight exabytes": lambda: tar_header("a", 2**62) + b"x" * 1024,
    "cab, stated as four gigabytes": lambda: cabinet("a", b"hello", stated_bytes=0x7FFF8000),
    "tar, links out and files through them": lambda: linked("/etc", "../../..", "/proc/self/root", "link0"),
    "zip, names that climb": lambda: zipped({"../../escaped": b"x", "/etc/cron.d/x": b"x", "C:\\windows\\x": b"x"}),
    "zip, a name of sixty thousand characters": lambda: zipped({"n" * 60_000: b"x"}),
    "zip, cut in the middle": lambda: zipped({"a": b"hello" * 1000, "b": b"x"})[:-40],
    "7z, cut in the middle": lambda: seven_zipped({"a": b"hello" * 1000})[:-20],
}
"""Name -> an archive that lies about itself without being large."""
