"""The certificate authority of one machine: P-256, one enrolment identity, one identity per lease."""

import json
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.machines.errors import GuestRefused
from services.machines.ports import Authority

_AUTHORITY_LIFETIME = timedelta(days=3650)  # a warm snapshot lives as long as its image
_BACKDATED = timedelta(days=1)  # tolerates clocks that differ
_REQUEST_MAX_BYTES = 16 * 1024


def enrolment_identity(machine_id: str) -> str:
    """The DNS name under which the warm snapshot answers."""
    return f"enrol.{machine_id}.malbox"


def lease_identity(machine_id: str, lease_id: str) -> str:
    """The DNS name of a lease's agent. A host name has no underscore."""
    return f"{lease_id.replace('_', '-')}.{machine_id}.malbox"


def create(machine_id: str, *, client_ca_pem: str) -> Authority:
    """A fresh authority and the bundle that the guest's agent reads at its first start."""
    now = datetime.now(UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"malbox machine {machine_id}"[:64])
    ca_cert = (
        _builder(name, name, ca_key.public_key(), now, _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    server_key = ec.generate_private_key(ec.SECP256R1())
    identity = enrolment_identity(machine_id)
    server_cert = _server_builder(identity, ca_cert, server_key.public_key(), now, _AUTHORITY_LIFETIME).sign(
        ca_key, hashes.SHA256()
    )
    bundle = {
        "machine_id": machine_id,
        "server_cert_pem": _cert_pem(server_cert),
        "server_key_pem": _key_pem(server_key),
        "machine_ca_pem": _cert_pem(ca_cert),
        "client_ca_pem": client_ca_pem,
    }
    return Authority(ca_cert_pem=_cert_pem(ca_cert), ca_key_pem=_key_pem(ca_key), enrolment=json.dumps(bundle).encode())


def sign(authority: Authority, request_pem: bytes, *, identity: str, lifetime_s: int) -> bytes:
    """A certificate (PEM) for the key of the request, with names of our choosing. Raises GuestRefused.

    Nothing that the request says is taken over but its key, which must be P-256 and prove that the guest holds it.
    """
    if len(request_pem) > _REQUEST_MAX_BYTES:
        raise GuestRefused("the certificate request is too long")
    try:
        request = x509.load_pem_x509_csr(request_pem)
        public_key = request.public_key()
        is_proven = request.is_signature_valid
    except Exception as error:  # hostile bytes: the library raises more than it documents
        raise GuestRefused("the certificate request cannot be read") from error
    if not is_proven or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise GuestRefused("the certificate request does not prove its key")
    if not isinstance(public_key.curve, ec.SECP256R1):
        raise GuestRefused("the certificate request is for another kind of key")
    ca_cert = x509.load_pem_x509_certificate(authority.ca_cert_pem.encode())
    ca_key = serialization.load_pem_private_key(authority.ca_key_pem.encode(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise GuestRefused("the machine's authority has another kind of key")
    lifetime = timedelta(seconds=lifetime_s)
    builder = _server_builder(identity, ca_cert, public_key, datetime.now(UTC), lifetime)
    return _cert_pem(builder.sign(ca_key, hashes.SHA256())).encode()


def _server_builder(
    identity: str,
    ca_cert: x509.Certificate,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        _builder(_name("malbox agent"), ca_cert.subject, public_key, now, lifetime)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(identity)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
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


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _cert_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")
