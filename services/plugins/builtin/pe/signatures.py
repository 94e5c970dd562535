"""Authenticode: who signed, and whether what was signed is still what the file holds.

Whether a signer is to be trusted is not judged: there is no list of roots in the sandbox. Times are not judged either:
a certificate that ended since does not undo a signature.
"""

from typing import Any

import lief

from malbox.sdk.executables import Executable, first, name_of, word_for
from malbox.sdk.findings import Findings

SECURITY_DIRECTORY = 4
SIGNATURES_MAX = 8
SIGNERS_MAX = 8
CERTIFICATES_MAX = 20


def signatures(executable: Executable, findings: Findings) -> list[dict[str, Any]]:
    """Each signature with its signers, and whether it holds."""
    if has_directory(executable.binary) and not len(executable.binary.signatures):
        findings.trait("signature_invalid", "there is a signature that cannot be read")
    return [
        _signature(executable.binary, one, findings)
        for one in first(executable.binary.signatures, SIGNATURES_MAX, findings)
    ]


def has_directory(binary: Any) -> bool:
    """Whether the headers say that there is a signature."""
    directories = list(binary.data_directories)
    return len(directories) > SECURITY_DIRECTORY and int(directories[SECURITY_DIRECTORY].size) > 0


def _signature(binary: Any, signature: Any, findings: Findings) -> dict[str, Any]:
    checks = lief.PE.Signature.VERIFICATION_CHECKS
    fault = binary.verify_signature(signature, checks.SKIP_CERT_TIME)
    is_digest_right = binary.verify_signature(signature, checks.HASH_ONLY) == lief.PE.Signature.VERIFICATION_FLAGS.OK
    signers = [_signer(one) for one in first(signature.signers, SIGNERS_MAX, findings)]
    is_valid = fault == lief.PE.Signature.VERIFICATION_FLAGS.OK
    who = signers[0]["subject"] if signers else "nobody"
    if not is_valid:
        findings.trait("signature_invalid", f"signed by {who}: {_words(fault)}")
    elif signers and signers[0]["is_signed_by_itself"]:
        findings.trait("signed_by_itself", f"{who} vouches for itself")
    return {
        "signer": who,
        "is_digest_right": is_digest_right,
        "is_valid": is_valid,
        "faults": [] if is_valid else [_words(fault)],
        "digest_algorithm": word_for(signature.digest_algorithm),
        "signers": signers,
        "certificates": [name_of(one.subject) for one in first(signature.certificates, CERTIFICATES_MAX, findings)],
    }


def _signer(signer: Any) -> dict[str, Any]:
    certificate = signer.cert
    subject = name_of(certificate.subject) if certificate else ""
    issuer = name_of(signer.issuer)
    return {
        "subject": subject or "a certificate that is not in the file",
        "issuer": issuer,
        "serial": bytes(signer.serial_number).hex(),
        "valid_from": _day(certificate.valid_from) if certificate else None,
        "valid_to": _day(certificate.valid_to) if certificate else None,
        "is_signed_by_itself": bool(subject) and certificate.subject == certificate.issuer,
        "program_name": _program_name(signer),
        "is_countersigned": any(
            _is_countersignature(one) for one in (*signer.authenticated_attributes, *signer.unauthenticated_attributes)
        ),
    }


def _program_name(signer: Any) -> str | None:
    for attribute in signer.authenticated_attributes:
        name = getattr(attribute, "program_name", None)
        if name:
            return name_of(name)
    return None


def _is_countersignature(attribute: Any) -> bool:
    return isinstance(attribute, lief.PE.PKCS9CounterSignature | lief.PE.MsCounterSign)


def _day(date: Any) -> str:
    return "{:04}-{:02}-{:02}".format(*date[:3])


def _words(flags: Any) -> str:
    return str(flags).rpartition(".")[2].replace("|", ", ").replace("_", " ").lower()
