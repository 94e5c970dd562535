"""Certificates, right and wrong, as an impostor would have them."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Identity:
    """A certificate chain and its key, PEM."""

    cert_pem: bytes
    key_pem: bytes

    def files(self, folder: Path) -> tuple[Path, Path]:
        """Both in files of their own."""
        name = secrets.token_hex(8)
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        cert.write_bytes(self.cert_pem)
        key.write_bytes(self.key_pem)
        return cert, key


@dataclass(frozen=True)
class Issuer:
    """An authority, right or wrong."""

    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def read(cls, cert_pem: bytes, key_pem: bytes) -> "Issuer":
        """An authority that there is."""
        key = serialization.load_pem_private_key(key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("not an elliptic key")
        return cls(x509.load_pem_x509_certificate(cert_pem), key)

    @classmethod
    def invented(cls, subject: x509.Name | None = None) -> "Issuer":
        """An authority of an impostor's own, under any name it likes."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = subject or _name("an authority")
        return cls(_certificate(name, name, key.public_key(), key, is_ca=True), key)

    def identity(self, name: str, *, starts_h: float = -1, ends_h: float = 1) -> Identity:
        """A certificate for that DNS name, valid between those hours from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(
            _name("somebody"), self.cert.subject, key.public_key(), self.key, dns=name, hours=(starts_h, ends_h)
        )
        return Identity(made.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def self_signed(name: str) -> Identity:
    """A certificate that nobody signed but its owner."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _certificate(_name(name), _name(name), key.public_key(), key, dns=name)
    return Identity(made.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    key: ec.EllipticCurvePrivateKey,
    *,
    dns: str = "",
    is_ca: bool = False,
    hours: tuple[float, float] = (-24, 24),
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(hours=hours[0]))
        .not_valid_after(now + timedelta(hours=hours[1]))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if dns:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
    return builder.sign(key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
