"""A real agent in a process of its own on loopback, with a machine authority and two hosts' client identities."""

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from contracts.machines import GuestEndpoint, LeaseRef
from services.machines.adapters.guest_agent import GrpcEnroller
from services.machines.ports import Authority, GuestAddress
from services.plugins.adapters.guest_agent import GrpcGuestConnector
from tests.ports import free_port

MACHINE_ID = "linux-1"
LEASE_ID = "lea_" + "ab" * 16
OTHER_LEASE_ID = "lea_" + "cd" * 16
SAMPLE_USER = "malbox-sample"
ROOT = Path(__file__).parent.parent.parent


def sample_user() -> str:
    """The name of an unprivileged user that nothing else of this host runs as; made when it is missing."""
    try:
        pwd.getpwnam(SAMPLE_USER)
    except KeyError:
        argv = ["/usr/sbin/useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SAMPLE_USER]
        subprocess.run(argv, check=True, timeout=30)
    return SAMPLE_USER


def own_uids() -> int:
    """The first of some users that only this process of this host uses for plugins."""
    return 20_000 + os.getpid() % 2000 * 10


@dataclass(frozen=True)
class ClientIdentity:
    """Files of a client that an agent may believe."""

    cert_file: Path
    key_file: Path
    ca_file: Path
    ca_key_file: Path


def make_client(folder: Path, name: str) -> ClientIdentity:
    """A client authority and one certificate of it."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def certificate(owner: x509.Name, public: ec.EllipticCurvePublicKey, *, is_ca: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(owner)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .sign(ca_key, hashes.SHA256())
        )

    pem = serialization.Encoding.PEM
    files = ClientIdentity(folder / "client.pem", folder / "client.key", folder / "ca.pem", folder / "ca.key")
    files.ca_file.write_bytes(certificate(ca_name, ca_key.public_key(), is_ca=True).public_bytes(pem))
    files.cert_file.write_bytes(certificate(subject, key.public_key(), is_ca=False).public_bytes(pem))
    for file, private in ((files.key_file, key), (files.ca_key_file, ca_key)):
        file.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


@dataclass(frozen=True)
class RunningAgent:
    """An agent that waits to be enrolled, and what a host needs to reach it."""

    address: GuestAddress
    authority: Authority
    enroller: GrpcEnroller
    connector: GrpcGuestConnector
    client: ClientIdentity
    pid: int
    sample_dir: Path
    work_dir: Path

    async def enrol(self, *, lease_id: str = LEASE_ID, epoch: int = 7) -> str:
        """The agent serves the lease; its identity is returned."""
        enrolment = await self.enroller.enrol(
            self.address,
            self.authority,
            MACHINE_ID,
            lease_id=lease_id,
            epoch=epoch,
            lifetime_s=600,
            timeout_s=60,
        )
        return enrolment.server_identity

    def endpoint(self, identity: str, *, ca_pem: str | None = None) -> GuestEndpoint:
        """The endpoint as `MachineLeased` carries it."""
        return GuestEndpoint(
            scheme="tcp",
            host=self.address.host,
            port=self.address.port,
            server_identity=identity,
            ca_pem=self.authority.ca_cert_pem if ca_pem is None else ca_pem,
        )


def lease(*, lease_id: str = LEASE_ID, epoch: int = 7, term: int = 0) -> LeaseRef:
    """A lease of the machine."""
    return LeaseRef(lease_id=lease_id, machine_id=MACHINE_ID, epoch=epoch, term=term)


@contextlib.contextmanager
def running_agent(folder: Path) -> Iterator[RunningAgent]:
    """The agent's process lives for the block. `folder` must be reachable for every user."""
    client = make_client(folder / "client", "malbox host")
    enroller = GrpcEnroller(
        client_cert_file=client.cert_file, client_key_file=client.key_file, client_ca_file=client.ca_file
    )
    authority = enroller.create_authority(MACHINE_ID)
    bundle, sample_dir, work_dir = folder / "enrolment.json", folder / "home", folder / "work"
    bundle.write_bytes(authority.enrolment)
    sample_dir.mkdir()
    account = pwd.getpwnam(sample_user())
    os.chown(sample_dir, account.pw_uid, account.pw_gid)
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALBOX_AGENT_HOST": "127.0.0.1",
        "MALBOX_AGENT_PORT": str(port),
        "MALBOX_WORK_DIR": str(work_dir),
        "MALBOX_PLUGIN_DIR": str(folder / "plugins"),
        "MALBOX_FIRST_PLUGIN_UID": str(own_uids()),
        "MALBOX_SAMPLE_DIR": str(sample_dir),
        "MALBOX_SAMPLE_USER": account.pw_name,
        "MALBOX_WATCHED_DIRS": str(sample_dir),
        "MALBOX_ENROLMENT_FILE": str(bundle),
        "MALBOX_ENROLMENT_WAIT_S": "60",
        "MALBOX_MAY_SET_CLOCK": "false",  # this clock is the host's
        "MALBOX_AGENT_SETTINGS_FILE": str(folder / "absent.toml"),
    }
    log = folder / "agent.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "guest.agent"], env=environment, stderr=stderr, cwd=folder)
    try:
        yield RunningAgent(
            address=GuestAddress("127.0.0.1", port),
            authority=authority,
            enroller=enroller,
            connector=GrpcGuestConnector(client_cert_file=client.cert_file, client_key_file=client.key_file),
            client=client,
            pid=process.pid,
            sample_dir=sample_dir,
            work_dir=work_dir,
        )
    finally:
        process.kill()
        process.wait(timeout=10)
        sys.stderr.write(log.read_text(encoding="utf-8", errors="replace"))
