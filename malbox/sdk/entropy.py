"""How evenly the values of bytes are spread: 0 bits for one value only, 8 for all alike, as after encryption."""

from math import log2

MEASURED_MAX_BYTES = 4 * 1024 * 1024
HIGH_BITS = 7.2  # compressed or encrypted; Lyda and Hamrock 2007 place packed sections from 6.8 on


def entropy_bits(content: bytes) -> float:
    """Shannon's entropy of the first `MEASURED_MAX_BYTES`, to two places."""
    measured = content[:MEASURED_MAX_BYTES]
    counts = (measured.count(value) for value in range(256))
    shares = (count / len(measured) for count in counts if count)
    return round(abs(sum(share * log2(share) for share in shares)), 2)
