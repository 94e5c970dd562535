"""DER (X.690) written by hand, and signatures of programs made of it: for tests, with keys that live for one test."""

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SIGNED_DATA = "1.2.840.113549.1.7.2"
SPC_INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"
SPC_PE_IMAGE = "1.3.6.1.4.1.311.2.1.15"
SHA256 = "2.16.840.1.101.3.4.2.1"
RSA = "1.2.840.113549.1.1.1"
CONTENT_TYPE = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
CHECKSUM_AT, SECURITY_AT = 64, 112 + 8 * 4  # in the optional header of PE32+


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def der(self) -> bytes:
        """The certificate's bytes."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The certificate as text."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@cache
def identity(name: str, issuer: Identity | None = None, *, bits: int = 2048) -> Identity:
    """A certificate for that name, issued by another or by itself."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    by = issuer.certificate.subject if issuer else subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(0x1234567890)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    )
    return Identity(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def signed_program(program: bytes, signer: Identity, *chain: Identity) -> bytes:
    """The PE32+ file with an Authenticode signature at its end ("Windows Authenticode PE Signature Format")."""
    optional = int.from_bytes(program[0x3C:0x40], "little") + 24
    program += bytes(-len(program) % 8)
    blob = authenticode(_image_digest(program, optional), signer, *chain)
    entry = struct.pack("<IHH", len(blob) + 8, 0x0200, 0x0002) + blob
    entry += bytes(-len(entry) % 8)
    directory = struct.pack("<II", len(program), len(entry))
    at = optional + SECURITY_AT
    return program[:at] + directory + program[at + 8 :] + entry


def authenticode(image_digest: bytes, signer: Identity, *chain: Identity) -> bytes:
    """The PKCS#7 message that signs the digest of an image."""
    algorithm = sequence(oid(SHA256), NULL)
    image = sequence(oid(SPC_PE_IMAGE), sequence(tlv(0x03, b"\0"), tlv(0xA0, tlv(0xA2, tlv(0x80, b"")))))
    indirect = sequence(image, sequence(algorithm, tlv(0x04, image_digest)))
    return signed_data(SPC_INDIRECT_DATA, indirect, content_of(indirect), signer, *chain)


def signed_data(kind: str, content: bytes, digested: bytes, signer: Identity, *chain: Identity) -> bytes:
    """PKCS#7 signed data with one signer. `digested`: what of the content counts."""
    algorithm = sequence(oid(SHA256), NULL)
    digest = hashlib.sha256(digested).digest()
    attributes = sequence(oid(CONTENT_TYPE), tlv(0x31, oid(kind)))
    attributes += sequence(oid(MESSAGE_DIGEST), tlv(0x31, tlv(0x04, digest)))
    signature = signer.key.sign(tlv(0x31, attributes), padding.PKCS1v15(), hashes.SHA256())
    issuer = signer.certificate.issuer.public_bytes()
    who = sequence(issuer, integer(signer.certificate.serial_number))
    info = sequence(integer(1), who, algorithm, tlv(0xA0, attributes), sequence(oid(RSA), NULL), tlv(0x04, signature))
    certificates = b"".join(one.der for one in (signer, *chain))
    body = sequence(
        integer(1),
        tlv(0x31, algorithm),
        sequence(oid(kind), tlv(0xA0, content)),
        tlv(0xA0, certificates),
        tlv(0x31, info),
    )
    return sequence(oid(SIGNED_DATA), tlv(0xA0, body))


def _image_digest(program: bytes, optional: int) -> bytes:
    """The digest leaves out the check sum, the directory of the signature, and the signature."""
    parts = (
        program[: optional + CHECKSUM_AT],
        program[optional + CHECKSUM_AT + 4 : optional + SECURITY_AT],
        program[optional + SECURITY_AT + 8 :],
    )
    return hashlib.sha256(b"".join(parts)).digest()


def tlv(tag: int, content: bytes) -> bytes:
    """One element."""
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = -(-length.bit_length() // 8)
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


NULL = tlv(0x05, b"")


def sequence(*elements: bytes) -> bytes:
    """Elements in order."""
    return tlv(0x30, b"".join(elements))


def integer(value: int) -> bytes:
    """A number."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    """An object identifier."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    content = bytes([40 * first + second])
    for part in rest:
        groups = [part & 0x7F]
        while part := part >> 7:
            groups.append(part & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return tlv(0x06, content)


def content_of(element: bytes) -> bytes:
    """What stands in an element."""
    length_bytes = element[1] & 0x7F if element[1] & 0x80 else 0
    return element[2 + length_bytes :]
