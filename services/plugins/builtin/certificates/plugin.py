"""Reads X.509 certificates with `cryptography`. Whom to trust is not judged: there are no roots in the sandbox."""

import warnings
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from malbox.sdk import Context, PluginFailure, PluginSkipped
from malbox.sdk.executables import beginning
from malbox.sdk.findings import Findings

from .reading import describe, issued_here
from .sources import sources

CERTIFICATES_MAX = 100


def run(context: Context) -> None:
    """The result `certificates` is emitted. Raises PluginSkipped where none could be, PluginFailure for ruins only."""
    content = beginning(context.sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of certificates that break a rule, which most hostile ones do
        context.emit_json("certificates", described(content))


def described(content: bytes) -> dict[str, Any]:
    """All certificates as plain data. Raises PluginSkipped, PluginFailure."""
    findings = Findings()
    found = read(content, findings)
    only = [certificate for _, certificate in found]
    rows = [
        {**describe(certificate, where, findings), "issued_here": issued_here(only, index, findings)}
        for index, (where, certificate) in enumerate(found)
    ]
    return {**findings.as_json(), "certificates": rows}


def read(content: bytes, findings: Findings) -> list[tuple[str, x509.Certificate]]:
    """Every certificate once, with where it stands first. Raises PluginSkipped, PluginFailure."""
    places = list(sources(content))
    if not places:
        raise PluginSkipped("there is no certificate and no signature in it")
    found: dict[bytes, tuple[str, x509.Certificate]] = {}
    for where, load in places:
        try:
            loaded = load()
        except ValueError as error:
            findings.problem(f"{where}: {error}")
            continue
        for certificate in loaded[: CERTIFICATES_MAX + 1]:
            found.setdefault(certificate.public_bytes(Encoding.DER), (where, certificate))
    if not found:
        raise PluginFailure("; ".join(findings.as_json()["problems"]) or "no certificate in it can be read")
    if len(found) > CERTIFICATES_MAX:
        findings.truncated()
    return list(found.values())[:CERTIFICATES_MAX]
