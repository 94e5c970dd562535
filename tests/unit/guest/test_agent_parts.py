"""The agent's parts by themselves: settings, journal, names, the reading of a trace, the machine's authority."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import BinaryIO

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from contracts.guest import agent_pb2 as pb
from guest import images, limits
from guest.enrolment import make_request
from guest.journal import Journal
from guest.platforms import PlatformRefused, this_platform
from guest.platforms.trace_lines import TraceLines
from guest.session import safe_name
from guest.settings import AgentSettings, SettingsRefused, load_settings
from services.machines.adapters import machine_authority
from services.machines.errors import GuestRefused

IDENTITY = "lea-ab.linux-1.malbox"


@pytest.mark.promise("C4")
def test_the_environment_stands_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    """Each source is used where the one above it is silent."""
    file = tmp_path / "agent.toml"
    file.write_text('agent_port = 7500\nwork_dir = "/from/file"\n', encoding="utf-8")
    environment = {"MALBOX_AGENT_SETTINGS_FILE": str(file), "MALBOX_WORK_DIR": "/from/environment"}
    settings = load_settings(environment)
    assert settings.work_dir == "/from/environment"
    assert settings.agent_port == 7500
    assert settings.sample_user == AgentSettings().sample_user
    assert settings.as_strings()["work_dir"] == "/from/environment"


@pytest.mark.promise("C4")
@pytest.mark.parametrize(
    "content", ["colour = 1\n", 'agent_port = "many"\n', "agent_port = 0\n", 'work_dir = "relative"\n', "not toml"]
)
def test_a_settings_file_that_cannot_be_meant_is_refused(content: str, tmp_path: Path) -> None:
    """An unknown key, a wrong type, an impossible value and no TOML are errors."""
    file = tmp_path / "agent.toml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsRefused):
        load_settings({"MALBOX_AGENT_SETTINGS_FILE": str(file)})


@pytest.mark.promise("C4")
@pytest.mark.parametrize("variable", ["MALBOX_WORKDIR", "MALBOX_AGENT_WORK_DIR", "MALBOX_PORT"])
def test_a_variable_that_nothing_reads_is_refused(variable: str, tmp_path: Path) -> None:
    """A name that is nearly right is not silently without effect; variables of others are their own affair."""
    environment = {"MALBOX_AGENT_SETTINGS_FILE": str(tmp_path / "absent.toml"), "WORK_DIR": "/x"}
    assert load_settings(environment) == AgentSettings()
    with pytest.raises(SettingsRefused, match=variable):
        load_settings({**environment, variable: "/x"})


@pytest.mark.promise("C4")
def test_every_setting_that_the_image_gives_its_agent_is_read(tmp_path: Path) -> None:
    """What the guest's first process exports is effective, by name and by type."""
    script = (Path(images.__file__).parent / "files" / "init").read_text(encoding="utf-8")
    exported = dict(re.findall(r"\bexport (MALBOX_[A-Z_]+)=(\S+)", script))
    assert exported, "the control: it does export some"
    assert set(re.findall(r"MALBOX_[A-Z_]+", script)) == set(exported)
    effective = load_settings({"MALBOX_AGENT_SETTINGS_FILE": str(tmp_path / "absent.toml"), **exported}).as_strings()
    for variable, value in exported.items():
        assert effective[variable.removeprefix("MALBOX_").lower()] == value


def a_journal(tmp_path: Path, *, events_max: int = 100) -> Journal:
    """An empty record."""
    return Journal(tmp_path, lease_id="lea_x", epoch=1, events_max=events_max)


def test_a_journal_can_be_read_again_from_any_position(tmp_path: Path) -> None:
    """The same events with the same positions come for every reader."""
    journal = a_journal(tmp_path)
    journal.open_source("stdout", 100)
    for number in range(5):
        journal.evidence("stdout", b"%d" % number)
    journal.seal()
    everything = journal.after(0, wait_s=0)
    assert [event.position for event in everything] == [1, 2, 3, 4, 5, 6]
    assert journal.after(3, wait_s=0) == everything[3:]
    assert journal.is_read(6)
    assert not journal.is_read(5)
    journal.close()


def test_a_source_beyond_its_limit_is_cut_once_and_marked(tmp_path: Path) -> None:
    """The last piece says that there was more; nothing follows it."""
    journal = a_journal(tmp_path)
    journal.open_source("stdout", 5)
    for content in (b"abc", b"defg", b"h"):
        journal.evidence("stdout", content)
    pieces = [event.evidence for event in journal.after(0, wait_s=0)]
    assert [(piece.content, piece.is_truncated) for piece in pieces] == [(b"abc", False), (b"de", True)]
    summary = journal.summaries()[0]
    assert (summary.size_bytes, summary.sha256) == (5, hashlib.sha256(b"abcde").digest())
    journal.close()


@pytest.mark.promise("P30")
def test_a_full_journal_still_takes_evidence_and_the_end(tmp_path: Path) -> None:
    """Beyond its number of events it says so, and takes no more of them but what is vital."""
    journal = a_journal(tmp_path, events_max=3)
    for pid in range(10):
        journal.add(pb.Event(process_started=pb.ProcessStarted(pid=pid)))
    journal.open_source("syscalls", 10)
    journal.evidence("syscalls", b"x")
    journal.add(pb.Event(tree_empty=pb.TreeEmpty()), is_vital=True)
    journal.seal()
    kinds = [event.WhichOneof("what") for event in journal.after(0, wait_s=0)]
    assert kinds == [*["process_started"] * 3, "log", "evidence", "tree_empty", "sealed"]
    journal.close()


@given(st.text(max_size=400))
def test_a_name_becomes_one_safe_part_of_a_path(name: str) -> None:
    """No separator, no hidden file, no option, never empty, never too long."""
    safe = safe_name(name)
    assert "/" not in safe
    assert "\\" not in safe
    assert safe.isprintable()
    assert safe[0] not in "-. "
    assert len(safe.encode()) <= limits.SAMPLE_NAME_MAX_BYTES


class Seen:
    """Collects what the reading of a trace calls back."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.exited: list[tuple[int, int | None, int | None]] = []
        self.lines = TraceLines(on_started=self.started.append, on_exited=lambda *ended: self.exited.append(ended))


@given(st.integers(1, 40))
def test_a_trace_is_read_the_same_however_it_is_cut(size: int) -> None:
    """Processes, their ends and the first program's start do not depend on where the pieces end."""
    trace = (
        b'4000001 1.5 execve("/bin/sh", ["sh"], 0x1) = 0\n4000002 1.6 getpid() = 1\n'
        b"4000002 1.7 +++ exited with 3 +++\n4000001 1.8 +++ killed by SIGKILL +++\n"
    )
    seen = Seen()
    for at in range(0, len(trace), size):
        seen.lines.feed(trace[at : at + size])
    assert seen.started == [4000001, 4000002]
    assert seen.exited == [(4000002, 3, None), (4000001, None, 9)]
    assert seen.lines.wait_for_exec(0)
    assert seen.lines.exec_error == ""


def test_a_program_that_the_kernel_refused_is_known_by_its_error() -> None:
    """The error of the first execve is kept; that of a later one is not taken for it."""
    seen = Seen()
    seen.lines.feed(b'4000001 1.5 execve("/x", ["/x = 0"], 0x1 /* 3 vars */) = -1 ENOEXEC (Exec format error)\n')
    seen.lines.feed(b'4000001 1.6 execve("/y", ["/y"], 0x1) = -1 ENOENT (No such file or directory)\n')
    assert seen.lines.exec_error == "ENOEXEC (Exec format error)"


@given(st.lists(st.binary(max_size=60), max_size=30))
def test_no_bytes_make_the_reading_of_a_trace_fail(pieces: list[bytes]) -> None:
    """Garbage is passed over: no process comes of it that has no number."""
    seen = Seen()
    for content in pieces:
        seen.lines.feed(content)
    assert all(isinstance(pid, int) for pid in seen.started)


def test_the_lease_gets_the_name_that_the_host_chose_whatever_the_guest_asked_for() -> None:
    """Of a request only the key counts: names in it, and the wish to be an authority, do not."""
    authority = machine_authority.create("linux-1", client_ca_pem="")
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("*.malbox")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = machine_authority.sign(
        authority, greedy.public_bytes(serialization.Encoding.PEM), identity=IDENTITY, lifetime_s=60
    )
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [IDENTITY]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.ca_cert_pem.encode()))


def test_the_agents_own_request_is_signed() -> None:
    """Key and request that openssl makes in the guest belong together and are accepted."""
    authority = machine_authority.create("linux-1", client_ca_pem="")
    key_pem, request_pem = make_request(IDENTITY)
    certificate = x509.load_pem_x509_certificate(
        machine_authority.sign(authority, request_pem, identity=IDENTITY, lifetime_s=60)
    )
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    assert certificate.public_key() == key.public_key()


def test_processes_that_stand_by_are_asked_in_any_order() -> None:
    """Each answers what it alone was asked; one that fails is a refusal, and not half an answer."""

    def phase(argument: bytes, out: BinaryIO) -> None:
        out.write(b"heard " + argument)
        if argument == b"nonsense":
            raise PlatformRefused

    first, second, third = (this_platform().stand_by(phase) for _ in range(3))
    assert (first(b"one"), third(b"three")) == (b"heard one", b"heard three")
    with pytest.raises(PlatformRefused, match="status 1"):
        second(b"nonsense")


@pytest.mark.promise("P30")
def test_requests_that_prove_nothing_are_refused() -> None:
    """Garbage, another kind of key, endless bytes, and a broken signature get no certificate."""
    authority = machine_authority.create("linux-1", client_ca_pem="")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    pem = serialization.Encoding.PEM
    weak = builder.sign(rsa.generate_private_key(65537, 2048), hashes.SHA256()).public_bytes(pem)
    der = bytearray(
        builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    )
    der[-1] ^= 1
    forged = b"-----BEGIN CERTIFICATE REQUEST-----\n" + _base64(bytes(der)) + b"-----END CERTIFICATE REQUEST-----\n"
    for request in (b"", b"garbage", weak, b"x" * 100_000, forged):
        with pytest.raises(GuestRefused):
            machine_authority.sign(authority, request, identity=IDENTITY, lifetime_s=60)


def test_the_bundle_for_the_guest_holds_no_key_of_the_authority() -> None:
    """A guest that reads its own enrolment cannot sign for any lease."""
    authority = machine_authority.create("linux-1", client_ca_pem="CLIENT CA")
    bundle = json.loads(authority.enrolment)
    assert authority.ca_key_pem.strip() not in authority.enrolment.decode().replace("\\n", "\n")
    assert bundle["client_ca_pem"] == "CLIENT CA"
    assert bundle["machine_id"] == "linux-1"
    assert len(authority.enrolment) < limits.BUNDLE_MAX_BYTES


def _base64(content: bytes) -> bytes:

    return base64.encodebytes(content)
