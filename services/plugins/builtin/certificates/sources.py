"""Where certificates stand: in signatures of executables, in PKCS#7 messages, in PEM text, or as the whole file."""

import struct
from collections.abc import Callable, Iterator

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7

MESSAGES_MAX = 16
MESSAGE_MAX_BYTES = 4 * 1024 * 1024
PEM_MAX_BYTES = 4 * 1024 * 1024
PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"
PEM_PKCS7_BEGIN = b"-----BEGIN PKCS7-----"
SIGNED_DATA = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"  # 1.2.840.113549.1.7.2
PE32, PE32_PLUS = 0x10B, 0x20B
SECURITY_AT = {PE32: 96 + 4 * 8, PE32_PLUS: 112 + 4 * 8}  # the fifth directory, from the optional header on
PKCS7_ENTRY = 0x0002  # WIN_CERT_TYPE_PKCS_SIGNED_DATA
MACHO_MAGICS = (b"\xfe\xed\xfa", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba")
CMS_BLOB = b"\xfa\xde\x0b\x01"  # CSMAGIC_BLOBWRAPPER

Found = tuple[str, Callable[[], list[x509.Certificate]]]
"""Where, and how its certificates are read. Reading raises ValueError for what is damaged."""


def sources(content: bytes) -> Iterator[Found]:
    """Every place in the file that may hold certificates, bounded."""
    if content[:2] == b"MZ":
        yield from (("signature of the program", _pkcs7(one)) for one in _of_program(content))
    elif content.startswith(MACHO_MAGICS):
        yield from (("code signature", _pkcs7(one)) for one in _of_macho(content))
    elif PEM_PKCS7_BEGIN in content[:PEM_MAX_BYTES]:
        yield "PKCS#7 text", lambda: pkcs7.load_pem_pkcs7_certificates(content[:PEM_MAX_BYTES])
    elif PEM_BEGIN in content[:PEM_MAX_BYTES]:
        yield "PEM text", lambda: x509.load_pem_x509_certificates(content[:PEM_MAX_BYTES])
    elif content[:1] == b"\x30" and SIGNED_DATA in content[:32]:
        yield "PKCS#7 message", _pkcs7(content)
    elif content[:1] == b"\x30":
        yield "the file itself", lambda: [x509.load_der_x509_certificate(_element(content))]


def _pkcs7(content: bytes) -> Callable[[], list[x509.Certificate]]:
    return lambda: pkcs7.load_der_pkcs7_certificates(_element(content))


def _of_program(content: bytes) -> Iterator[bytes]:
    """The messages in the attribute certificate table of a PE file, each after a header of eight bytes."""
    optional = int.from_bytes(content[0x3C:0x40], "little") + 24
    directory = SECURITY_AT.get(int.from_bytes(content[optional : optional + 2], "little"), 0)
    place = content[optional + directory : optional + directory + 8]
    if not directory or len(place) < 8:  # noqa: PLR2004 - an offset and a size
        return
    at, size = struct.unpack("<II", place)
    end = min(at + size, len(content))
    for _ in range(MESSAGES_MAX):
        if not 0 < at <= end - 8:
            return
        length, _, kind = struct.unpack_from("<IHH", content, at)
        if kind == PKCS7_ENTRY:
            yield content[at + 8 : at + min(length, MESSAGE_MAX_BYTES)]
        at += max(8, length + -length % 8)


def _of_macho(content: bytes) -> Iterator[bytes]:
    at = content.find(CMS_BLOB)
    for _ in range(MESSAGES_MAX):
        if at < 0:
            return
        length = int.from_bytes(content[at + 4 : at + 8], "big")
        message = content[at + 8 : at + min(length, MESSAGE_MAX_BYTES)]
        if message[:1] == b"\x30":
            yield message
        at = content.find(CMS_BLOB, at + 4)


def _element(content: bytes) -> bytes:
    """The first DER element, without what stands behind it. Raises ValueError."""
    if len(content) < 2:  # noqa: PLR2004 - a tag and a length
        raise ValueError("no DER element")
    size_bytes = content[1] & 0x7F if content[1] & 0x80 else 0
    if size_bytes > 4:  # noqa: PLR2004 - more than any file has
        raise ValueError("a DER element with a length of its own making")
    length = int.from_bytes(content[2 : 2 + size_bytes], "big") if size_bytes else content[1]
    return content[: 2 + size_bytes + length][:MESSAGE_MAX_BYTES]
