"""How random each piece of the sample is, as Shannon's entropy in bits per byte (C. E. Shannon, 1948)."""

from collections import Counter
from math import log2

from malbox.sdk import Context, PluginSkipped

PIECES_MAX = 4096
KIB = 1024


def run(context: Context) -> None:
    """One JSON result. The sample may be huge: it is read in pieces, and there are so many of them at most."""
    piece_bytes = context.config["piece_kib"] * KIB
    pieces: list[dict[str, float]] = []
    with context.sample.open("rb") as sample:
        while len(pieces) < PIECES_MAX and (piece := sample.read(piece_bytes)):
            pieces.append({"offset": len(pieces) * piece_bytes, "bits_per_byte": round(entropy(piece), 3)})
        is_truncated = bool(sample.read(1))
    if not pieces:
        raise PluginSkipped("the sample is empty")
    context.emit_json(
        "randomness",
        {
            "piece_bytes": piece_bytes,
            "pieces": pieces,
            "highest": max(piece["bits_per_byte"] for piece in pieces),
            "is_truncated": is_truncated,
        },
    )


def entropy(piece: bytes) -> float:
    """Bits of information in each byte, had each been drawn by itself: 0 where all are alike, 8 at most."""
    shares = [count / len(piece) for count in Counter(piece).values()]
    return -sum(share * log2(share) for share in shares) + 0.0
