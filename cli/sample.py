"""The file to submit: what can be known to be wrong with it is said before a byte is sent."""

import os
import stat
from pathlib import Path

from cli.errors import Refused, Usage


def check(path: Path) -> int:
    """The size of a file that can be submitted, bytes. Raises Usage, saying what is wrong and what to do."""
    try:
        found = path.stat()
    except OSError as error:
        raise Usage(
            f"{path} cannot be submitted: {error.strerror}.", remedy="Check the path; it is relative to this directory."
        ) from error
    if stat.S_ISDIR(found.st_mode):
        raise Usage(
            f"{path} is a directory; a sample is one file.",
            remedy=f"Submit the files in it one by one, or pack them: zip -r sample.zip {path.name}",
        )
    if not stat.S_ISREG(found.st_mode):
        raise Usage(f"{path} is not a regular file.", remedy="Copy what it yields into a file and submit that.")
    if not os.access(path, os.R_OK):
        raise Usage(f"{path} may not be read by you.", remedy="Give yourself the right to read it: chmod u+r.")
    if found.st_size == 0:
        raise Usage(f"{path} is empty: there is nothing to analyse.", remedy="Check how the file was obtained.")
    return found.st_size


def check_limit(path: Path, size_bytes: int, limit_bytes: int) -> None:
    """Raises Refused when the server would not take as much."""
    if size_bytes > limit_bytes:
        raise Refused(
            f"{path} has {size_bytes} bytes ({_in_words(size_bytes)}); the limit here is {_in_words(limit_bytes)}.",
            remedy="Submit the part that matters: unpack an archive and submit its files, or cut off what is padding.",
            code="sample_too_large",
        )


def name_of(path: Path) -> str:
    """The file's name as text that can be sent; bytes that are not UTF-8 are replaced."""
    return os.fsencode(path.name).decode("utf-8", errors="replace")


def _in_words(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004 - what a unit holds
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
