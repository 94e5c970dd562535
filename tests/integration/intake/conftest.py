"""An intake that runs, for the tests of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.intake_desk import Desk, running


@pytest.fixture
async def desk(database_url: str, amqp_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    """A running intake that knows one machine and one plugin."""
    async with running(database_url, amqp_url, tmp_path, sample_max_bytes=1_000_000) as running_desk:
        await running_desk.know()
        yield running_desk
