"""X.509 certificates in files and in signatures, from ones that the tests make with keys of their own."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.certificates import plugin
from services.plugins.builtin.certificates.plugin import run
from services.plugins.builtin.identity.content import classify
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.der import Identity, identity, signed_data, signed_program
from tests.unit.plugins.macho_files import MachO
from tests.unit.plugins.mutations import mutations
from tests.unit.plugins.pe_files import Portable

Read = Callable[[bytes], Emitted]
DATA = "1.2.840.113549.1.7.1"


@pytest.fixture
def read(make_sample: MakeSample, tmp_path: Path) -> Read:
    """Call it with bytes for what the plugin emits."""

    def read(content: bytes) -> Emitted:
        return run_plugin(run, make_sample(content), scratch=tmp_path)

    return read


def root() -> Identity:
    """Somebody who vouches for others."""
    return identity("Root of the test")


def signer() -> Identity:
    """Somebody whom the root vouches for."""
    return identity("Signer of the test", root())


def message() -> bytes:
    """Signed data with its chain."""
    return signed_data(DATA, b"\x04\x05words", b"words", signer(), root())


def code_signature() -> bytes:
    """A Mach-O file with a message of that kind in it."""
    return MachO().build() + b"\xfa\xde\x0b\x01" + (8 + len(message())).to_bytes(4, "big") + message()


def with_curve_and_names() -> bytes:
    """A certificate with an elliptic key, for two hosts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Hosts")])
    names = x509.SubjectAlternativeName([x509.DNSName("a.evil-host.com"), x509.DNSName("*.evil-host.com")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2030, 1, 1, tzinfo=UTC))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.DER)


CHAINS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a program": ("signature of the program", lambda: signed_program(Portable().build(), signer(), root())),
    "a Mach-O file": ("code signature", code_signature),
    "a message": ("PKCS#7 message", message),
    "text": ("PEM text", lambda: b"# a chain\n" + signer().pem + root().pem),
    "text of a message": (
        "PKCS#7 text",
        lambda: pkcs7.serialize_certificates([signer().certificate, root().certificate], Encoding.PEM),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_read_from_wherever_it_stands(read: Read, name: str) -> None:
    """Each certificate once, who issued it, what it is for; an intact chain has no traits."""
    where, make = CHAINS[name]
    said = read(make()).json("certificates")
    rows = {one["subject"]: one for one in said["certificates"]}
    assert set(rows) == {"CN=Signer of the test", "CN=Root of the test"}
    one = rows["CN=Signer of the test"]
    assert (one["issuer"], one["issued_here"], one["found_in"]) == ("CN=Root of the test", "CN=Root of the test", where)
    assert (one["valid_from"], one["valid_to"]) == ("2020-01-01", "2040-01-01")
    assert (one["key"], one["signed_with"], one["purposes"]) == ("RSA 2048", "sha256", ["codeSigning"])
    assert one["sha256"] == signer().certificate.fingerprint(hashes.SHA256()).hex()
    assert rows["CN=Root of the test"]["issued_here"] == "itself"
    assert (said["traits"], said["problems"]) == ([], [])


def test_a_certificate_may_be_the_whole_file(read: Read) -> None:
    """Its hosts are indicators; whoever is not there has issued nothing here."""
    said = read(with_curve_and_names()).json("certificates")
    [one] = said["certificates"]
    assert (one["key"], one["is_authority"], one["names"]) == (
        "EC secp256r1",
        True,
        ["a.evil-host.com", "*.evil-host.com"],
    )
    assert [(one["kind"], one["value"]) for one in said["indicators"]] == [
        ("domain", "a.evil-host.com"),
        ("domain", "evil-host.com"),
    ]
    assert read(signer().der).json("certificates")["certificates"][0]["issued_here"] is None


def test_a_certificate_that_its_issuer_did_not_issue_is_a_trait(read: Read) -> None:
    """The name fits, the signature does not."""
    forged = identity("Signer of the test", replace(root(), key=identity("Somebody else").key))
    said = read(forged.pem + root().pem).json("certificates")
    assert [one["name"] for one in said["traits"]] == ["certificate_forged"]
    assert said["certificates"][0]["issued_here"] is None


def test_a_short_key_is_a_trait(read: Read) -> None:
    """Anybody can compute it."""
    weak = identity("Weak", bits=1024)
    assert [one["name"] for one in read(weak.der).json("certificates")["traits"]] == ["certificate_weak"]


@pytest.mark.parametrize(
    ("make", "mime"),
    [
        (lambda: signer().der, "application/pkix-cert"),
        (message, "application/pkcs7-mime"),
        (lambda: signer().pem, "application/x-pem-file"),
    ],
)
def test_files_of_certificates_are_told_by_their_bytes(make: Callable[[], bytes], mime: str) -> None:
    """The plugin applies by media type."""
    assert classify(make(), "x").mime == mime


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"MZ", b"-----BEGIN RSA PRIVATE KEY-----\n", Portable().build(), MachO().build()]
)
def test_what_has_no_certificate_is_skipped(read: Read, content: bytes) -> None:
    """Not an error: most programs are not signed."""
    with pytest.raises(PluginSkipped):
        read(content)


@pytest.mark.parametrize("content", [b"0", b"0\x80", b"0\x88" + b"\xff" * 20, b"0\x82\x01\x00" + bytes(256)])
def test_a_ruin_fails_in_words(read: Read, content: bytes) -> None:
    """It begins like one and is none."""
    with pytest.raises(PluginFailure):
        read(content)


def test_more_than_the_bound_is_left_out_and_said(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a million certificates is read in part."""
    monkeypatch.setattr(plugin, "CERTIFICATES_MAX", 1)
    said = read(signer().pem + root().pem).json("certificates")
    assert (len(said["certificates"]), said["is_truncated"]) == (1, True)


@pytest.mark.parametrize("kind", ["program", "message", "certificate", "text"])
def test_damaged_certificates_are_described_or_refused(read: Read, kind: str) -> None:
    """Cut off, bits flipped, bytes overwritten: bounded output or a refusal in words."""
    samples: dict[str, Callable[[], bytes]] = {
        "program": lambda: signed_program(Portable().build(), signer(), root()),
        "message": message,
        "certificate": with_curve_and_names,
        "text": lambda: signer().pem + root().pem,
    }
    for damaged in mutations(samples[kind](), 200, kind):
        with contextlib.suppress(PluginSkipped, PluginFailure):
            assert len(read(damaged).content["certificates"]) < 100_000
