"""One installation for all acceptance tests."""

from collections.abc import Iterator

import pytest

from tests.acceptance.installation import Installation, start, stop


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """A running installation with a real guest."""
    here = start()
    yield here
    stop(here)
