"""A laboratory whose helper is asked by the machines' user."""

from collections.abc import AsyncIterator

import pytest

from deploy.local.state import MACHINE_USER
from tests.security.network.ends import as_user
from tests.security.network.lab import Lab, laboratory


@pytest.fixture(name="lab")
async def lab_fixture() -> AsyncIterator[Lab]:
    """A host, a world, a helper; asked by the machines' user."""
    async with laboratory() as made:
        with as_user(MACHINE_USER):
            yield made
