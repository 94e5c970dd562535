"""Addresses of cryptocurrencies, known by the check sums that they carry where they carry one."""

import hashlib
import re

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
BITCOIN_BYTES = 25  # a version, the hash of a key or script, four bytes of check sum
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32_SUMS = (1, 0x2BC830A3)  # BIP-173 and, for later versions of a script, BIP-350

WALLET = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?P<bitcoin>[13][1-9A-HJ-NP-Za-km-z]{25,34})"
    r"|(?P<bech32>bc1[02-9ac-hj-np-z]{11,71})"
    r"|(?P<ethereum>0x[0-9A-Fa-f]{40})"
    r"|(?P<monero>4[0-9AB][1-9A-HJ-NP-Za-km-z]{93})"
    r")(?![A-Za-z0-9])"
)


def is_wallet(match: re.Match[str]) -> bool:
    """Whether what looks like an address is one."""
    if match["bitcoin"]:
        return _has_base58_sum(match["bitcoin"])
    if match["bech32"]:
        return _has_bech32_sum(match["bech32"])
    return len(set(match[0].lower())) > 8  # noqa: PLR2004 - neither has a sum to check without more code: no constants


def _has_base58_sum(address: str) -> bool:
    number = 0
    for character in address:
        number = number * 58 + BASE58.index(character)
    if number >= 256**BITCOIN_BYTES:
        return False
    content = number.to_bytes(BITCOIN_BYTES, "big")
    return hashlib.sha256(hashlib.sha256(content[:-4]).digest()).digest()[:4] == content[-4:]


def _has_bech32_sum(address: str) -> bool:
    prefix, data = address[:2], address[3:]
    values = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + [BECH32.index(c) for c in data]
    total = 1
    for value in values:
        top = total >> 25
        total = (total & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATORS):
            total ^= generator if top >> bit & 1 else 0
    return total in _BECH32_SUMS
