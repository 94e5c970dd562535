"""A message as Outlook saves it ([MS-OXMSG]): a compound file with a stream for each property of text or bytes."""

import email
import email.utils
import re
import struct
from collections import defaultdict
from email import policy
from email.message import Message
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import compressed_rtf
import olefile

from .reading import TEXT_MAX_BYTES, Reading

MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # [MS-CFB] 2.2
STREAM_MAX_BYTES = 60 * 1024 * 1024
COMPRESSED_MAX_BYTES = 1024 * 1024
"""Two bytes become seventeen at most."""
ENTRIES_MAX = 5000
DEPTH_MAX = 5

_PROPERTIES = "__properties_version1.0"
_TEXT = re.compile(r"__substg1\.0_([0-9a-f]{4})001[ef]")
_HOST_PATH = re.compile(r"\\\\([\w.-]{1,255})(?:@\w{1,10}){0,2}\\(.*)", re.DOTALL)
"""The host may be followed by the port, or by SSL and the port, for WebDAV."""
_NO_HEADER = re.compile(r"\A[^:\r\n]*\r?\n")
"""Some servers begin with a line that says whose headers these are."""
_NAMED = 0x8000
"""Properties from here on have their meaning from a name, and their numbers from the message."""
_NAMES = "__nameid_version1.0"
_NAMES_MAX_BYTES = 512 * 1024  # as many as there are numbers
_COMMON_SET = UUID("00062008-0000-0000-c000-000000000046").bytes_le  # [MS-OXPROPS] 1.3.2: PSETID_Common
_REMINDER_FILE = 0x851F
"""PidLidReminderFileParameter, of that set: the sound of a reminder, which Outlook fetches without being asked."""
_SETS_KNOWN = 3  # indices below stand for no set, or for one that the format knows

# [MS-OXPROPS], the names without PidTag.
_SUBJECT, _SENDER_NAME, _SENDER_ADDRESS, _SENDER_SMTP = 0x0037, 0x0C1A, 0x0C1F, 0x5D01
_TO, _CC, _MESSAGE_ID, _TRANSPORT_HEADERS = 0x0E04, 0x0E03, 0x1035, 0x007D
_BODY, _HTML, _RTF = 0x1000, 0x1013, 0x1009
_ATTACHED, _LONG_NAME, _SHORT_NAME, _DISPLAY_NAME, _MIME = 0x3701, 0x3707, 0x3704, 0x3001, 0x370E
_PATHS = (0x370D, 0x3708)
"""Where an attachment lies that is not in the message: AttachLongPathname, AttachPathname."""


Folders: TypeAlias = dict[str, dict[str, list[str]]]
"""Path of a folder -> name in it -> path of that; the keys are lower-case, as the format compares names."""


def may_be_message(content: bytes) -> bool:
    """Whether a file with such bytes could be a message: documents that hold one look alike from here."""
    return content.startswith(MAGIC) and _PROPERTIES.encode("utf-16-le") in content


def read(path: Path, reading: Reading) -> bool:
    """Headers, bodies and attachments were looked at, those of messages inside it too. False: it is no message."""
    try:
        with olefile.OleFileIO(str(path)) as ole:
            entries = ole.listdir(streams=True, storages=True)
            if len(entries) > ENTRIES_MAX:
                reading.findings.truncated()
            folders: Folders = defaultdict(dict)
            for entry in entries[:ENTRIES_MAX]:
                folders["/".join(entry[:-1]).lower()][entry[-1].lower()] = entry
            storage = _Storage(ole, folders, "", reading)
            if not storage.is_message:
                return False
            storage.message(0)
    except Exception as error:  # noqa: BLE001 - olefile meets damaged files with whatever comes
        reading.findings.problem(f"message: {type(error).__name__}: {error}")
    return True


class _Storage:
    """One message, or one attachment of it: the properties that lie in one folder of the file."""

    def __init__(self, ole: Any, folders: Folders, folder: str, reading: Reading) -> None:
        self._ole = ole
        self._reading = reading
        self._folders = folders
        self._folder = folder
        self._own = folders.get(folder, {})

    def message(self, depth: int) -> None:
        """The message of this folder was looked at."""
        if depth == 0:
            self._reading.head(self._headers())
        self._lead_out()
        for kind, text, size_bytes in self._bodies():
            self._reading.body(kind, text, size_bytes)
        for name in sorted(self._own):
            if name.startswith("__attach_version1.0_"):
                self._below(name).attachment(depth)

    def attachment(self, depth: int) -> None:
        """The attachment of this folder was looked at."""
        name = next((text for one in (_LONG_NAME, _SHORT_NAME, _DISPLAY_NAME) if (text := self.text(one))), "")
        kind = self.text(_MIME) or "application/octet-stream"
        content, storage = self.content(_ATTACHED), f"__substg1.0_{_ATTACHED:04x}000d"
        if content is not None:
            self._reading.attached(kind, name, content)
        elif storage not in self._own:
            self._reading.attached(kind, name, b"")
            for number in _PATHS:
                self._is_elsewhere(number)
        elif not self._below(storage).is_message:
            self._reading.attached(kind, name, b"")
            self._reading.findings.problem(f"{name or 'an attachment'}: an embedded object, which is not handed out")
        elif depth + 1 >= DEPTH_MAX:
            self._reading.findings.problem(f"messages inside messages are read to a depth of {DEPTH_MAX}")
        else:
            self._reading.attached("application/vnd.ms-outlook", name or "message", b"")
            self._below(storage).message(depth + 1)

    @property
    def is_message(self) -> bool:
        """Whether the folder holds a message."""
        return _PROPERTIES in self._own

    def text(self, number: int, limit_bytes: int = 2 * 4096) -> str:
        """The property, which is of text; empty where there is none."""
        wide = self._stream(f"__substg1.0_{number:04x}001f", limit_bytes)
        if wide is not None:
            return wide.decode("utf-16-le", "replace").rstrip("\0")
        narrow = self._stream(f"__substg1.0_{number:04x}001e", limit_bytes)
        return _decoded(narrow).rstrip("\0") if narrow is not None else ""

    def content(self, number: int) -> bytes | None:
        """The property, which is of bytes; None where there is none."""
        return self._stream(f"__substg1.0_{number:04x}0102", STREAM_MAX_BYTES)

    def _bodies(self) -> list[tuple[str, str, int]]:
        """Media type, text and size of each form of the body."""
        bodies = []
        plain = self.text(_BODY, TEXT_MAX_BYTES)
        if plain:
            bodies.append(("text/plain", plain, len(plain.encode("utf-8", "replace"))))
        html = self.content(_HTML)
        wide = self.text(_HTML, TEXT_MAX_BYTES) if html is None else ""
        if html or wide:
            text = _decoded(html[:TEXT_MAX_BYTES]) if html else wide
            bodies.append(("text/html", text, len(html) if html else len(wide.encode("utf-8", "replace"))))
        packed = self._stream(f"__substg1.0_{_RTF:04x}0102", COMPRESSED_MAX_BYTES, is_of_use_cut=False)
        if packed:
            try:
                rtf = compressed_rtf.decompress(packed)
            except Exception as error:  # noqa: BLE001 - it raises nothing narrower
                self._reading.findings.problem(f"body, application/rtf: {error}")
            else:
                bodies.append(("application/rtf", rtf[:TEXT_MAX_BYTES].decode("latin-1"), len(rtf)))
        return bodies

    def _headers(self) -> Message:
        """What the servers wrote on the way, or what the sender's program knew before it was sent."""
        written = _NO_HEADER.sub("", self.text(_TRANSPORT_HEADERS, TEXT_MAX_BYTES))
        message = email.message_from_string(written, policy=policy.compat32)
        address = self.text(_SENDER_SMTP) or self.text(_SENDER_ADDRESS)
        sender = email.utils.formataddr((self.text(_SENDER_NAME), address), "utf-8") if _is_plain(address) else ""
        known = {
            "From": sender or self.text(_SENDER_NAME),
            "To": self.text(_TO),
            "Cc": self.text(_CC),
            "Subject": self.text(_SUBJECT),
            "Message-ID": self.text(_MESSAGE_ID),
        }
        for name, value in known.items():
            if value and name not in message:
                message[name] = value
        return message

    def _lead_out(self) -> None:
        """Paths on other hosts in the named properties. For the sound of a reminder Outlook itself goes there."""
        numbers = {int(match[1], 16) for name in self._own if (match := _TEXT.fullmatch(name))}
        reminders = self._below_root(_NAMES).numbers_of(_COMMON_SET, _REMINDER_FILE)
        for number in sorted(numbers):
            if number >= _NAMED and self._is_elsewhere(number) and number in reminders:
                self._reading.findings.trait("mail_reaches_out", f"property {number:04X}: {self.text(number)}")

    def numbers_of(self, property_set: bytes, name: int) -> set[int]:
        """The numbers that this folder of names gives to a property of that set ([MS-OXMSG] 2.2.3.1)."""
        sets = self._stream("__substg1.0_00020102", _NAMES_MAX_BYTES) or b""
        entries = self._stream("__substg1.0_00030102", _NAMES_MAX_BYTES) or b""
        found = set()
        for named, which, number in struct.iter_unpack("<IHH", entries[: len(entries) & ~7]):
            at = ((which >> 1) - _SETS_KNOWN) * len(property_set)  # the lowest bit: it is named by a text
            if named == name and not which & 1 and at >= 0 and sets[at : at + len(property_set)] == property_set:
                found.add(_NAMED + number)
        return found

    def _is_elsewhere(self, number: int) -> bool:
        """Whether the property is a path on another host, which is an indicator then."""
        path, where = self.text(number), f"property {number:04X}"
        elsewhere = _HOST_PATH.match(path)
        if elsewhere is not None:
            host, rest = elsewhere.groups()
            self._reading.findings.indicator("path", path, where)
            self._reading.findings.url(f"file://{host}/" + rest.replace("\\", "/"), where)
        return elsewhere is not None

    def _below_root(self, name: str) -> "_Storage":
        return _Storage(self._ole, self._folders, name, self._reading)

    def _below(self, name: str) -> "_Storage":
        return _Storage(self._ole, self._folders, f"{self._folder}/{name}".lstrip("/"), self._reading)

    def _stream(self, name: str, limit_bytes: int, *, is_of_use_cut: bool = True) -> bytes | None:
        """Its beginning. None where there is none, or one that would take too much memory or must be whole."""
        entry = self._own.get(name)
        if entry is None or self._ole.get_type(entry) != olefile.STGTY_STREAM:
            return None
        size_bytes = self._ole.get_size(entry)
        if size_bytes > limit_bytes:
            self._reading.findings.truncated()
        size_max_bytes = STREAM_MAX_BYTES if is_of_use_cut else min(limit_bytes, STREAM_MAX_BYTES)
        if size_bytes > size_max_bytes:
            self._reading.findings.problem(f"{'/'.join(entry)}: more than {size_max_bytes} bytes, which are not read")
            return None
        content: bytes = self._ole.openstream(entry).read(limit_bytes)
        return content


def _decoded(content: bytes) -> str:
    """Text of one byte a character, whose code page most messages do not need."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _is_plain(address: str) -> bool:
    """Whether it is an address of the Internet, not one of Exchange's directory."""
    return "@" in address and address.isascii() and address.isprintable()
