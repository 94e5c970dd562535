"""One installation for all tests of this tier."""

from collections.abc import Iterator

import pytest

from tests.crash.ground import Ground, ground


@pytest.fixture(scope="session")
def prepared_ground() -> Iterator[Ground]:
    """Servers and services are up."""
    with ground() as made:
        yield made
