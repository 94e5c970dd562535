"""The endpoint that comes with a lease is used as it is, or refused for what it is."""

from pathlib import Path

import pytest

from contracts.machines import GuestEndpoint, LeaseRef
from services.plugins.adapters.guest_agent import GrpcGuestConnector
from services.plugins.ports_guest import GuestRefused

LEASE = LeaseRef(lease_id="lea_" + "1" * 32, machine_id="linux-1", epoch=2, term=1)


@pytest.mark.promise("C3")
async def test_a_transport_that_there_is_none_for_is_refused_by_name(tmp_path: Path) -> None:
    """It is not taken for another one: nothing is connected to, not even the files of our identity are read."""
    connector = GrpcGuestConnector(client_cert_file=tmp_path / "absent", client_key_file=tmp_path / "absent")
    endpoint = GuestEndpoint(scheme="vsock", host="7", port=7411, server_identity="x", ca_pem="pem")
    with pytest.raises(GuestRefused, match="no transport for vsock"):
        await connector.connect(endpoint, LEASE, timeout_s=1)
