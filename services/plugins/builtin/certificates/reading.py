"""What a certificate says. Each field is read by itself: a damaged extension costs only what it would have said."""

from collections.abc import Callable
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

from malbox.sdk.executables import name_of
from malbox.sdk.findings import Findings

NAMES_MAX = 50
RSA_STRONG_FROM_BITS = 2048  # CA/Browser Forum's requirements for code signing, 2010 on
WEAK_HASHES = frozenset({"md2", "md5"})

T = TypeVar("T")


def describe(certificate: x509.Certificate, found_in: str, findings: Findings) -> dict[str, Any]:
    """The certificate as plain data."""
    subject = _tried(lambda: name_of(certificate.subject.rfc4514_string()), "unreadable", findings)
    key, is_weak_key = _tried(lambda: _key(certificate), ("unreadable", False), findings)
    digest = _tried(lambda: _digest_name(certificate), None, findings)
    if is_weak_key or digest in WEAK_HASHES:
        findings.trait("certificate_weak", f"{subject}: {key}, {digest}")
    nothing: list[str] = []
    names = _tried(lambda: _names(certificate), nothing, findings)
    for name in names:
        findings.indicator("domain", name.removeprefix("*.").lower(), f"certificate of {subject}")
    return {
        "subject": subject,
        "issuer": _tried(lambda: name_of(certificate.issuer.rfc4514_string()), "unreadable", findings),
        "valid_from": _tried(lambda: certificate.not_valid_before_utc.date().isoformat(), None, findings),
        "valid_to": _tried(lambda: certificate.not_valid_after_utc.date().isoformat(), None, findings),
        "key": key,
        "signed_with": digest,
        "is_authority": _tried(lambda: _is_authority(certificate), None, findings),
        "purposes": _tried(lambda: _purposes(certificate), nothing, findings),
        "names": names,
        "serial": f"{certificate.serial_number:x}"[:64],
        "sha1": certificate.fingerprint(hashes.SHA1()).hex(),  # noqa: S303 - what others list certificates by
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "found_in": found_in,
    }


def issued_here(certificates: list[x509.Certificate], index: int, findings: Findings) -> str | None:
    """Who among these certificates issued this one: `itself`, a subject, or None when the issuer is not there.

    A name that fits and a signature that does not is a trait: somebody wants to pass for issued by that one.
    """
    certificate = certificates[index]
    namesakes = [other for other in certificates if _is_named_as_issuer(other, certificate)]
    for other in namesakes:
        if _is_issued_by(certificate, other):
            return "itself" if other == certificate else name_of(other.subject.rfc4514_string())
    if namesakes:
        findings.trait(
            "certificate_forged", f"{name_of(certificate.subject.rfc4514_string())} was not issued by its issuer"
        )
    return None


def _is_named_as_issuer(other: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        return other.subject == certificate.issuer
    except ValueError:
        return False


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _key(certificate: x509.Certificate) -> tuple[str, bool]:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}", key.key_size < RSA_STRONG_FROM_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}", False
    if isinstance(key, dsa.DSAPublicKey):
        return f"DSA {key.key_size}", key.key_size < RSA_STRONG_FROM_BITS
    return type(key).__name__.strip("_").removesuffix("PublicKey"), False


def _digest_name(certificate: x509.Certificate) -> str | None:
    found = certificate.signature_hash_algorithm
    return found.name if found else None


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def _purposes(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return []
    return [name_of(str(getattr(one, "_name", one.dotted_string))) for one in list(found)[:NAMES_MAX]]


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name_of(one) for one in found.get_values_for_type(x509.DNSName)[:NAMES_MAX]]


def _tried(read: Callable[[], T], otherwise: T, findings: Findings) -> T:
    try:
        return read()
    except (ValueError, TypeError, UnsupportedAlgorithm, OverflowError, x509.DuplicateExtension) as error:
        findings.problem(f"{type(error).__name__}: {error}")
        return otherwise
