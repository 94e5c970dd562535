"""One installation for all acceptance tests."""

from collections.abc import AsyncIterator, Iterator

import pytest

from deploy.local.installation import Installation as Parts
from deploy.local.state import State
from tests.acceptance.installation import Installation, start, stop
from tests.prove.facts import ear
from tests.prove.ground import Ground


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """A running installation with a real guest."""
    here = start()
    yield here
    stop(here)


@pytest.fixture
async def ground(installation: Installation) -> AsyncIterator[Ground]:
    """The installation's machine, ready, in the hands of somebody who has the host in theirs."""
    parts = Parts.open(State(installation.state))
    async with ear(parts) as listening:
        made = Ground(parts, listening)
        await made.made_ready()
        yield made
