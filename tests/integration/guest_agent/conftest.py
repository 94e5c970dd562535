"""A real agent on loopback, and a session with it."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.plugins.adapters.guest_agent import GrpcGuestSession, guest_session
from tests.integration.guest_harness import MACHINE_ID, RunningAgent, lease, running_agent


@pytest.fixture(name="folder")
def folder_fixture() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="malbox-agent-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(name="agent")
def agent_fixture(folder: Path) -> Iterator[RunningAgent]:
    """An agent that waits to be enrolled."""
    with running_agent(folder) as agent:
        yield agent


@pytest.fixture(name="session")
async def session_fixture(agent: RunningAgent) -> AsyncIterator[GrpcGuestSession]:
    """A session with an agent that was attested and enrolled."""
    await agent.enroller.attest(agent.address, agent.authority, MACHINE_ID, timeout_s=60)
    identity = await agent.enrol()
    async with guest_session(agent.connector, agent.endpoint(identity), lease(), timeout_s=30) as session:
        yield session
