"""Secrets and certificates are made once, differ, and are readable by one user."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from deploy.local import pki, secrets
from deploy.local.state import DeployError, State, Users
from tests.unit.deploy.test_state import ME


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A state directory with room for settings and certificates."""
    for name in ("etc", "pki"):
        (tmp_path / name).mkdir()
    return State(tmp_path, ME)


def test_secrets_are_made_once(state: State) -> None:
    """The second time gives what the first time made."""
    assert secrets.ensure(state) == secrets.ensure(state)


def test_two_installations_share_no_secret(tmp_path: Path) -> None:
    """Every value differs between two state directories."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name / "etc").mkdir(parents=True)
        made.append(secrets.ensure(State(tmp_path / name, Users("a", "a", "a", "a"))))
    values = [{*each.database.values(), *each.broker.values(), each.gateway, each.admin_token} for each in made]
    assert not values[0] & values[1]
    assert all(len(value) == 6 + 7 + 2 for value in values)


@pytest.mark.promise("P40")
def test_the_settings_hold_only_the_digest_of_the_token(state: State) -> None:
    """The token itself is in one private file, for the command line."""
    made = secrets.ensure(state)
    assert made.admin_token not in secrets.secrets_file(state).read_text()
    assert made.admin_token not in made.admin_token_sha256
    for path in (state.admin_token, secrets.secrets_file(state)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_file_of_secrets_is_not_overwritten(state: State) -> None:
    """Passwords that are in use must not be replaced by fresh ones."""
    secrets.secrets_file(state).write_text("broken")
    with pytest.raises(DeployError, match="restore it"):
        secrets.ensure(state)
    assert secrets.secrets_file(state).read_text() == "broken"


@pytest.mark.parametrize("client", pki.CLIENTS)
def test_a_client_certificate_is_the_authoritys_and_for_clients_only(state: State, client: str) -> None:
    """It verifies against the installation's authority as a client and names its service."""
    pki.ensure(state)
    certificate = x509.load_pem_x509_certificate(pki.cert_file(state, client).read_bytes())
    authority = x509.load_pem_x509_certificate(pki.ca_file(state).read_bytes())
    verified = PolicyBuilder().store(Store([authority])).build_client_verifier().verify(certificate, [])
    assert [name.value for name in verified.subjects or []] == [f"{client}.malbox"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_certificates_are_kept(state: State) -> None:
    """Snapshots of guests know the authority: it must not change."""
    pki.ensure(state)
    before = pki.ca_file(state).read_bytes(), pki.cert_file(state, "machines").read_bytes()
    pki.ensure(state)
    assert before == (pki.ca_file(state).read_bytes(), pki.cert_file(state, "machines").read_bytes())


@pytest.mark.promise("P28")
def test_a_renewed_certificate_is_valid_for_a_guest_whose_clock_shows_the_day_of_its_snapshot(state: State) -> None:
    """A warm snapshot outlives client certificates; its clock stands still until the session sets it."""
    made_at = datetime(2026, 1, 2, tzinfo=UTC)
    pki.ensure(state, made_at)
    first = x509.load_pem_x509_certificate(pki.cert_file(state, "plugins").read_bytes())
    pki.ensure(state, made_at + timedelta(days=390))
    renewed = x509.load_pem_x509_certificate(pki.cert_file(state, "plugins").read_bytes())
    assert renewed.serial_number != first.serial_number
    assert renewed.not_valid_before_utc < made_at < renewed.not_valid_after_utc
