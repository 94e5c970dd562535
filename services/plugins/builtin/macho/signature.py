"""The code signature: who the image says it is, and what it is entitled to. After Apple's <kern/cs_blobs.h>.

Whether the hashes in it fit is not checked: the certificates that it carries are read by the plugin `certificates`.
"""

import plistlib
import struct
from collections.abc import Iterator
from typing import Any

from malbox.sdk.executables import name_of
from malbox.sdk.findings import Findings, printable

from .image import Image

BLOBS_MAX = 32
ENTITLEMENTS_MAX = 200
ENTITLEMENTS_MAX_BYTES = 256 * 1024
SUPER_BLOB, CODE_DIRECTORY, ENTITLEMENTS, CMS = 0xFADE0CC0, 0xFADE0C02, 0xFADE7171, 0xFADE0B01
FLAGS = {
    0x2: "ad hoc",
    0x100: "hard",
    0x200: "kill",
    0x800: "restrict",
    0x2000: "library validation",
    0x10000: "runtime",
}
TEAM_FROM_VERSION = 0x20200
EMPTY_CMS_BYTES = 8  # its header: signed by nobody
LOOSE = (
    "com.apple.security.cs.allow-dyld-environment-variables",
    "com.apple.security.cs.disable-library-validation",
    "com.apple.security.cs.disable-executable-page-protection",
    "com.apple.security.cs.allow-unsigned-executable-memory",
    "com.apple.security.get-task-allow",
)
"""Entitlements that let others put code into the process."""


def signatures(image: Image, findings: Findings) -> list[dict[str, Any]]:
    """The code directories of the image."""
    del findings
    blobs = list(_blobs(image))
    is_by_somebody = any(magic == CMS and len(blob) > EMPTY_CMS_BYTES for magic, blob in blobs)
    return [
        {**_directory(blob), "is_signed_with_certificate": is_by_somebody}
        for magic, blob in blobs
        if magic == CODE_DIRECTORY
    ]


def entitlements(image: Image, findings: Findings) -> list[dict[str, Any]]:
    """What the image is entitled to, one row each. Raises ValueError for what is no property list."""
    rows: list[dict[str, Any]] = []
    for magic, blob in _blobs(image):
        if magic != ENTITLEMENTS:
            continue
        found = plistlib.loads(blob[8:ENTITLEMENTS_MAX_BYTES], fmt=plistlib.FMT_XML)
        if not isinstance(found, dict):
            raise TypeError("the entitlements are no dictionary")
        for name, value in list(found.items())[:ENTITLEMENTS_MAX]:
            rows.append({"name": name_of(str(name)), "value": printable(str(value))})
            if name in LOOSE and value is True:
                findings.trait("lets_others_load_code", f"{image.architecture}: {name}")
    return rows


def _blobs(image: Image) -> Iterator[tuple[int, bytes]]:
    """Magic and bytes of each part of the signature, its header included."""
    command = image.has("code_signature")
    if command is None:
        return
    begin = image.begin + int(command.data_offset)
    content = image.content[begin : begin + int(command.data_size)]
    if len(content) < 12 or int.from_bytes(content[:4], "big") != SUPER_BLOB:  # noqa: PLR2004 - its header
        return
    count = int.from_bytes(content[8:12], "big")
    for index in range(min(count, BLOBS_MAX)):
        at = int.from_bytes(content[16 + 8 * index : 20 + 8 * index], "big")
        magic, size = int.from_bytes(content[at : at + 4], "big"), int.from_bytes(content[at + 4 : at + 8], "big")
        yield magic, content[at : at + size]


def _directory(blob: bytes) -> dict[str, Any]:
    """Raises struct.error for one that is cut off."""
    version, flags, _, identifier_at = struct.unpack_from(">IIII", blob, 8)
    team_at = struct.unpack_from(">I", blob, 48)[0] if version >= TEAM_FROM_VERSION else 0
    return {
        "identifier": _text(blob, identifier_at),
        "team": _text(blob, team_at) if team_at else None,
        "flags": [words for bit, words in FLAGS.items() if flags & bit],
        "version": f"{version:#x}",
    }


def _text(blob: bytes, at: int) -> str:
    return name_of(blob[at : at + 400].partition(b"\0")[0])
