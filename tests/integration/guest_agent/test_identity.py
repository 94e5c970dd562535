"""A real agent: whom it believes, who believes it, what it says of itself, and where it listens."""

import os
from pathlib import Path

import pytest

from services.machines.adapters import canary
from services.machines.errors import GuestRefused as MachineGuestRefused
from services.machines.errors import GuestUnreachable as MachineGuestUnreachable
from services.plugins.adapters.guest_agent import GrpcGuestConnector, GrpcGuestSession
from services.plugins.ports_guest import (
    GuestRefused,
    GuestUnreachable,
)
from tests.integration.guest_agent.course import start
from tests.integration.guest_harness import LEASE_ID, MACHINE_ID, OTHER_LEASE_ID, RunningAgent, lease, make_client
from tests.security.network.processes import descendants, open_files, text_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root in its guest, and so it must be here"),
]


@pytest.mark.promise("C4")
async def test_the_agent_uses_and_reports_the_settings_it_was_given(
    session: GrpcGuestSession, agent: RunningAgent, folder: Path
) -> None:
    """MALBOX_WORK_DIR and the others are effective: reported in the handshake, and used."""
    hello = await session.hello()
    assert hello.settings["work_dir"] == str(agent.work_dir)
    assert agent.work_dir.is_dir()
    assert agent.work_dir.stat().st_mode & 0o077 == 0
    assert hello.settings["agent_port"] == str(agent.address.port)
    source = folder / "source"
    source.write_bytes(b"x")
    assert Path(await session.put(source, "a")).parent == agent.sample_dir


@pytest.mark.promise("P8")
async def test_a_canary_is_planted_with_the_enrolment_and_one_of_before_is_shown(agent: RunningAgent) -> None:
    """A fresh agent shows none; one that finds a file of an earlier lease says where."""
    fresh = await agent.enroller.attest(agent.address, agent.authority, MACHINE_ID, timeout_s=60)
    assert fresh.canaries == ()
    (agent.work_dir / "canary").write_bytes(canary.of_lease(MACHINE_ID, OTHER_LEASE_ID, 6))
    used = await agent.enroller.attest(agent.address, agent.authority, MACHINE_ID, timeout_s=60)
    assert used.canaries == ("disk",)
    enrolment = await agent.enroller.enrol(
        agent.address, agent.authority, MACHINE_ID, lease_id=LEASE_ID, epoch=7, lifetime_s=600, timeout_s=60
    )
    assert enrolment.canary_places == ("memory", "disk")
    assert (agent.work_dir / "canary").read_bytes() == canary.of_lease(MACHINE_ID, LEASE_ID, 7)


@pytest.mark.promise("P28", "C1")
async def test_an_agent_of_another_authority_is_not_believed(session: GrpcGuestSession, agent: RunningAgent) -> None:
    """Something that answers at the address, under a certificate of another machine, proves nothing."""
    identity = f"{LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox"
    other = agent.enroller.create_authority(MACHINE_ID)
    for endpoint in (
        agent.endpoint(identity, ca_pem=other.ca_cert_pem),
        agent.endpoint(f"{OTHER_LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox"),
    ):
        with pytest.raises(GuestUnreachable):
            await agent.connector.connect(endpoint, lease(), timeout_s=1.5)
    with pytest.raises(MachineGuestUnreachable):
        await agent.enroller.attest(agent.address, other, MACHINE_ID, timeout_s=1.5)
    assert await session.hello()


@pytest.mark.promise("C1")
async def test_a_client_without_the_installations_identity_is_not_served(
    session: GrpcGuestSession, agent: RunningAgent, folder: Path
) -> None:
    """A client certificate of another authority gets nowhere; the right one does."""
    stranger = make_client(folder / "stranger", "stranger")
    connector = GrpcGuestConnector(client_cert_file=stranger.cert_file, client_key_file=stranger.key_file)
    endpoint = agent.endpoint(f"{LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox")
    with pytest.raises(GuestUnreachable):
        await connector.connect(endpoint, lease(), timeout_s=1.5)
    assert await session.hello()


async def test_an_incarnation_is_enrolled_for_one_lease_only(agent: RunningAgent) -> None:
    """Fresh before, not after; the same lease again is the same; another lease is refused."""
    attested = await agent.enroller.attest(agent.address, agent.authority, MACHINE_ID, timeout_s=60)
    assert attested.is_fresh
    identity = await agent.enrol()
    assert await agent.enrol() == identity
    with pytest.raises((MachineGuestUnreachable, MachineGuestRefused)):
        await agent.enroller.enrol(
            agent.address,
            agent.authority,
            MACHINE_ID,
            lease_id=OTHER_LEASE_ID,
            epoch=8,
            lifetime_s=60,
            timeout_s=1.5,
        )
    with pytest.raises(MachineGuestUnreachable):
        await agent.enroller.attest(agent.address, agent.authority, MACHINE_ID, timeout_s=1.0)


@pytest.mark.promise("C6")
async def test_everything_goes_through_one_endpoint_and_plugins_have_names(
    session: GrpcGuestSession, agent: RunningAgent, folder: Path
) -> None:
    """With a plugin armed and a sample running, the agent's processes listen on the endpoint's port and on no other."""
    await start(session, folder, "exec sleep 300\n")
    assert listening_ports(agent.pid) == {agent.address.port}
    assert set((await session.hello()).plugin_versions) == {"syscalls"}
    await session.flush()


def listening_ports(pid: int) -> set[int]:
    """The TCP ports on which the process or a descendant listens, in its own network (proc(5): state 0A)."""
    ports: set[int] = set()
    for one in (pid, *descendants(pid)):
        held = open_files(one)
        for table in ("tcp", "tcp6"):
            for line in text_of(Path(f"/proc/{one}/net/{table}")).splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == "0A" and f"socket:[{inode}]" in held:
                    ports.add(int(local.rpartition(":")[2], 16))
    return ports


@pytest.mark.promise("C6")
async def test_a_plugin_that_cannot_be_configured_so_is_refused(session: GrpcGuestSession) -> None:
    """An unknown plugin, an unknown key and an impossible value are errors, each with what is allowed."""
    with pytest.raises(GuestRefused, match="there are: syscalls"):
        await session.init_plugin("keylogger", {})
    for config in ({"speed": 3}, {"trace_max_mib": 0}, {"trace_max_mib": "9"}, {"string_bytes": True}):
        with pytest.raises(GuestRefused, match="allowed: trace_max_mib 1-256"):
            await session.init_plugin("syscalls", dict(config))
