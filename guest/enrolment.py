"""What the agent is given before anybody has a lease: the bundle of its machine, and a certificate for each lease.

The bundle comes from outside at the first start and is in the snapshot. The lease's key is made in a process of its
own (openssl), whose generator takes its seed after the restore, and never touches a disk.
"""

import json
import re
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from guest import limits
from guest.settings import AgentSettings

OPENSSL = "openssl"
_WAIT_PAUSE_S = 0.2
_IDENTITY = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,200})[a-z0-9]$")
_KEY = re.compile(rb"-----BEGIN PRIVATE KEY-----\n.+?\n-----END PRIVATE KEY-----\n", re.DOTALL)
_REQUEST = re.compile(rb"-----BEGIN CERTIFICATE REQUEST-----\n.+?\n-----END CERTIFICATE REQUEST-----\n", re.DOTALL)


class EnrolmentRefused(Exception):
    """The agent cannot be enrolled so; the message says why."""


@dataclass(frozen=True)
class Bundle:
    """A machine's enrolment: its identity (PEM) and whom to believe."""

    machine_id: str
    server_cert_pem: str
    server_key_pem: str
    machine_ca_pem: str
    client_ca_pem: str


@dataclass(frozen=True)
class Grant:
    """The one lease that this incarnation serves, and its server identity (PEM). It stays in the agent's memory."""

    machine_id: str
    lease_id: str
    epoch: int
    certificate_pem: str
    key_pem: str
    client_ca_pem: str
    canary: str = ""

    def to_json(self) -> bytes:
        """As it goes from one phase of the agent to the next."""
        return json.dumps(asdict(self)).encode()


def read_bundle(settings: AgentSettings) -> Bundle:
    """The bundle, waited for. Raises EnrolmentRefused."""
    path = Path(settings.enrolment_file)
    end = time.monotonic() + settings.enrolment_wait_s
    while not path.exists():
        if time.monotonic() >= end:
            raise EnrolmentRefused(f"no enrolment at {path} within {settings.enrolment_wait_s} s")
        time.sleep(_WAIT_PAUSE_S)  # the firmware's files appear with a kernel module; there is nothing to wait on
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(limits.BUNDLE_MAX_BYTES))
        return Bundle(**{name: str(content[name]) for name in Bundle.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnrolmentRefused(f"{path} is not an enrolment: {error!r}") from error


def make_request(server_identity: str) -> tuple[str, bytes]:
    """A new key (PEM) and a request (PEM) for that DNS name. Raises EnrolmentRefused."""
    if not _IDENTITY.match(server_identity):
        raise EnrolmentRefused("the server identity is not a DNS name")
    argv = [OPENSSL, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += ["-keyout", "-", "-out", "-", "-subj", "/CN=malbox", "-addext", f"subjectAltName=DNS:{server_identity}"]
    try:
        made = subprocess.run(argv, check=False, capture_output=True, timeout=limits.TOOL_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnrolmentRefused(f"no key can be made: {error}") from error
    key, request = _KEY.search(made.stdout), _REQUEST.search(made.stdout)
    if made.returncode != 0 or key is None or request is None:
        raise EnrolmentRefused(f"no key can be made: {made.stderr[:200]!r}")
    return key[0].decode("ascii"), request[0]
