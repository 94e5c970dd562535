"""What the sample left in the guest, by content: programs, scripts, archives, and copies of itself.

Earlier results of the task are the context's inputs. Those that the guest's agent brought are hostile like the sample.
"""

import hashlib
from pathlib import Path

from malbox.sdk import Context, PluginSkipped

PIECE_BYTES = 1024 * 1024
BEGINNINGS = {
    b"\x7fELF": "program for Linux",
    b"MZ": "program for Windows",
    b"#!": "script",
    b"PK\x03\x04": "archive",
    b"%PDF-": "PDF document",
}


def run(context: Context) -> None:
    """One JSON result, with an entry for each file that was collected."""
    left = [one for one in context.inputs if one.plugin == "agent" and one.name.startswith("dropped/")]
    if not left:
        raise PluginSkipped("the sample left no files")
    sample = digest(context.sample)
    files = []
    for one in left:
        sha256 = digest(one.path)
        described = {"name": one.name, "size_bytes": one.path.stat().st_size, "sha256": sha256}
        files.append({**described, "content": content_of(one.path), "is_the_sample": sha256 == sample})
    context.emit_json("left_behind", {"files": files})


def content_of(path: Path) -> str:
    """What a file that begins like this is, in words."""
    with path.open("rb") as file:
        head = file.read(max(map(len, BEGINNINGS)))
    return next((words for beginning, words in BEGINNINGS.items() if head.startswith(beginning)), "other")


def digest(path: Path) -> str:
    """SHA-256 of the file, which may be large."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            total.update(piece)
    return total.hexdigest()
