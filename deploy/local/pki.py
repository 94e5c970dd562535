"""The installation's authority for clients of guests: only its services may speak to a guest agent."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.local.state import DeployError, State, write_private

CLIENTS = ("machines", "plugins")
AUTHORITY_VALID = dt.timedelta(days=3650)
CLIENT_VALID = dt.timedelta(days=397)
RENEWED_BEFORE = dt.timedelta(days=30)
BACKDATED = dt.timedelta(hours=1)  # a guest's clock may be a little behind


@dataclass(frozen=True)
class Authority:
    """The certificate authority with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ca_file(state: State) -> Path:
    """The authority's certificate: public."""
    return state.pki / "client-ca.pem"


def cert_file(state: State, client: str) -> Path:
    """A client's certificate."""
    return state.pki / f"{client}.pem"


def key_file(state: State, client: str) -> Path:
    """A client's key, readable by the service's user only."""
    return state.pki / f"{client}.key"


def ensure(state: State, now: dt.datetime | None = None) -> None:
    """The authority and a valid certificate per client exist. Raises DeployError when a file is damaged."""
    now = now or dt.datetime.now(dt.UTC)
    try:
        authority = _load_authority(state) or _make_authority(state, now)
        for client in CLIENTS:
            if not _is_good(state, client, authority, now):
                _make_client(state, client, authority, now)
    except (ValueError, TypeError) as error:
        raise DeployError(
            f"a certificate in {state.pki} is damaged ({error}): restore it, or stop and remove it"
        ) from error


def _load_authority(state: State) -> Authority | None:
    key_path = state.pki / "client-ca.key"
    if not (key_path.exists() and ca_file(state).exists()):
        return None
    key = load_pem_private_key(key_path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{key_path.name} is not an elliptic curve key")
    return Authority(x509.load_pem_x509_certificate(ca_file(state).read_bytes()), key)


def _make_authority(state: State, now: dt.datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Malbox guest clients")
    certificate = (
        _builder(name, name, key.public_key(), now - BACKDATED, now + AUTHORITY_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(state.pki / "client-ca.key", _key_pem(key))
    write_private(ca_file(state), certificate.public_bytes(Encoding.PEM), mode=0o644)
    return Authority(certificate, key)


def _make_client(state: State, client: str, authority: Authority, now: dt.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # A restored guest's clock shows the day of its snapshot, which may be long before a certificate was renewed.
    since = authority.certificate.not_valid_before_utc
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    certificate = (
        _builder(_name(client), authority.certificate.subject, key.public_key(), since, now + CLIENT_VALID)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{client}.malbox")]), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    write_private(key_file(state, client), _key_pem(key), state.users.of_service(client))
    write_private(cert_file(state, client), certificate.public_bytes(Encoding.PEM), mode=0o644)


def _is_good(state: State, client: str, authority: Authority, now: dt.datetime) -> bool:
    if not (key_file(state, client).exists() and cert_file(state, client).exists()):
        return False
    certificate = x509.load_pem_x509_certificate(cert_file(state, client).read_bytes())
    is_ours = certificate.issuer == authority.certificate.subject
    return is_ours and certificate.not_valid_after_utc - now > RENEWED_BEFORE


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, since: dt.datetime, until: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
