"""A running service with a guest that follows a script."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.integration.guest_stage.lives import Open
from tests.integration.plugins_bench import (
    Bench,
    ScriptedGuest,
    connected,
    open_folder,
    service,
    settings,
)


@pytest.fixture
async def opened(amqp_url: str, database_url: str) -> AsyncIterator[Open]:
    """Call it with a guest for a running service that reaches it."""
    with open_folder() as folder:
        own = settings(amqp_url, database_url, folder)

        @asynccontextmanager
        async def open_with(guest: ScriptedGuest) -> AsyncIterator[Bench]:
            async with service(own, guest), connected(own) as bench:
                yield bench

        yield open_with
