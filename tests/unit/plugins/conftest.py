"""Samples that the tests of the plugins write themselves."""

from collections.abc import Callable
from pathlib import Path

import pytest

MakeSample = Callable[[bytes], Path]


@pytest.fixture
def make_sample(tmp_path: Path) -> MakeSample:
    """Call it with bytes for a file that has them."""

    def make(content: bytes) -> Path:
        path = tmp_path / "sample"
        path.write_bytes(content)
        return path

    return make
