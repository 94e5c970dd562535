"""The processes in which simulations run."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.pool import simulations


@pytest.fixture(scope="package")
def pool() -> Iterator[ProcessPoolExecutor]:
    """One for each processor."""
    with simulations() as processes:
        yield processes
