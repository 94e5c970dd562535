"""Takes one entry out of a ZIP archive. Hostile bytes: read only in the sandbox, one entry, counted while it unpacks.

Nothing is written under a name that the archive gives, and no entry but the chosen one is unpacked. Sizes that the
archive states are not believed: the bytes that come out are counted.
"""

import lzma
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyzipper

from malbox.sdk import Context, PluginFailure
from malbox.sdk.findings import printable
from malbox.sdk.passwords import CUSTOMARY_PASSWORDS

ENTRIES_MAX = 10_000
LISTED_MAX = 200
NAMED_IN_MESSAGE_MAX = 20
NAME_MAX_CHARS = 200
ENTRY_MAX_BYTES = 256 * 1024 * 1024
RATIO_MAX = 1_100  # deflate cannot exceed 1032:1 (zlib's technical notes); more means overlapping or forged entries
CHUNK_BYTES = 1024 * 1024
IS_ENCRYPTED = 0x1
UNREADABLE = (RuntimeError, zipfile.BadZipFile, pyzipper.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
"""What damage raises, and a wrong password: its check has 8 or 16 bits only."""


class NoPasswordOpens(Exception):
    """none of the passwords opens the entry"""


def run(context: Context) -> None:
    """The result `archive`, and `entry` if one is meant and opens. Raises PluginFailure saying what can be changed."""
    try:
        with pyzipper.AESZipFile(context.sample) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            password, wanted = context.config.get("password") or "", context.config.get("entry") or ""
            chosen = choose(entries, wanted)
            target = context.scratch / "entry"
            is_locked = chosen is not None and not _opened(archive, chosen, password, target)
    except PluginFailure:
        raise
    except Exception as error:  # the library meets hostile bytes with whatever comes: OSError, struct.error, KeyError
        raise PluginFailure(f"the archive cannot be read: {error}") from error
    if is_locked and (password or wanted):
        raise PluginFailure("wrong archive password")
    context.emit_json("archive", listing(entries, None if is_locked else chosen, is_locked=is_locked))
    if chosen is not None and not is_locked:
        context.emit_file("entry", target)


def choose(entries: list[Any], wanted: str) -> Any:
    """The entry asked for, or the only one; None of several. Raises PluginFailure naming what there is."""
    if not 0 < len(entries) <= ENTRIES_MAX:
        raise PluginFailure(f"the archive has {len(entries)} files; between 1 and {ENTRIES_MAX} are read")
    if not wanted:
        return entries[0] if len(entries) == 1 else None
    found = next((entry for entry in entries if entry.filename == wanted), None)
    if found is None:
        names = ", ".join(printable(entry.filename, NAME_MAX_CHARS) for entry in entries[:NAMED_IN_MESSAGE_MAX])
        more = f" and {len(entries) - NAMED_IN_MESSAGE_MAX} more" if len(entries) > NAMED_IN_MESSAGE_MAX else ""
        raise PluginFailure(f"the archive has no entry {printable(wanted, NAME_MAX_CHARS)}; it has: {names}{more}")
    return found


def listing(entries: list[Any], chosen: Any | None, *, is_locked: bool = False) -> dict[str, Any]:
    """What the archive says it holds. `chosen` is empty where no file is meant before the others, or it is locked."""
    return {
        "count": len(entries),
        "chosen": "" if chosen is None else printable(chosen.filename, NAME_MAX_CHARS),
        "is_locked": is_locked,
        "is_truncated": len(entries) > LISTED_MAX,
        "entries": [
            {
                "name": printable(entry.filename, NAME_MAX_CHARS),
                "size_bytes": int(entry.file_size),
                "is_encrypted": bool(entry.flag_bits & IS_ENCRYPTED),
            }
            for entry in entries[:LISTED_MAX]
        ],
    }


def extract(archive: Any, entry: Any, passwords: tuple[str, ...], target: Path) -> None:
    """The entry's bytes are in `target`, by the first password that fits where it is encrypted.

    Raises NoPasswordOpens, and PluginFailure for a damaged entry or a budget that is used up.
    """
    if not entry.flag_bits & IS_ENCRYPTED:
        try:
            _unpack(archive, entry, None, target)
        except UNREADABLE as error:
            raise PluginFailure(f"the archive is damaged: {error}") from error
        return
    for password in passwords:
        with suppress(*UNREADABLE):
            _unpack(archive, entry, password.encode(), target)
            return
    raise NoPasswordOpens


def _opened(archive: Any, entry: Any, password: str, target: Path) -> bool:
    try:
        extract(archive, entry, (password,) if password else CUSTOMARY_PASSWORDS, target)
    except NoPasswordOpens:
        return False
    return True


def _unpack(archive: Any, entry: Any, password: bytes | None, target: Path) -> None:
    try:
        with archive.open(entry, pwd=password) as source, target.open("wb") as sink:
            _copy(source, sink, entry.compress_size)
    except NotImplementedError as error:  # whatever the password; it is a RuntimeError too
        raise PluginFailure(f"the archive's file cannot be unpacked: {error}") from error


def _copy(source: Any, sink: Any, packed_bytes: int) -> None:
    limit = min(ENTRY_MAX_BYTES, max(packed_bytes, 1) * RATIO_MAX)
    written = 0
    while chunk := source.read(CHUNK_BYTES):
        written += len(chunk)
        if written > limit:
            raise PluginFailure(f"the entry unpacks to more than {limit} bytes")
        sink.write(chunk)
