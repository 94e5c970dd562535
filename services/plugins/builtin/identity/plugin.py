"""Names the bytes of the sample. The content decides; the name only breaks a tie between kinds of text."""

import hashlib
from pathlib import Path
from typing import Any

from malbox.sdk import Context

from .content import HEAD_BYTES, classify
from .similarity import ssdeep_of, tlsh_of

CHUNK_BYTES = 1024 * 1024


def run(context: Context) -> None:
    """The result `identity` is emitted."""
    identity = identify(context.sample, context.sample_name)
    if context.config.get("similarity", True):
        identity |= {"tlsh": tlsh_of(context.sample), "ssdeep": ssdeep_of(context.sample)}
    context.emit_json("identity", identity)


def identify(path: Path, name: str) -> dict[str, Any]:
    """Hashes, size and kind of the file."""
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in ("md5", "sha1", "sha256")}
    size, head = 0, b""
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            head = head or chunk[:HEAD_BYTES]
            size += len(chunk)
            for digest in digests.values():
                digest.update(chunk)
    kind = classify(head, name)
    return {
        "size_bytes": size,
        **{name: digest.hexdigest() for name, digest in digests.items()},
        "mime": kind.mime,
        "description": kind.description,
        "package": kind.package,
        "platform": kind.platform,
        "is_text": kind.is_text,
    }
