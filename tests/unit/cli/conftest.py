"""Fixtures of the command line's tests: an origin to talk to, and the command run as a person would."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cli.app import main
from tests.unit.cli.origin import Origin, listening


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, read as JSON."""
        return json.loads(self.out)


Malbox = Callable[..., Outcome]


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    """A fresh origin that the environment points the command line to."""
    with listening() as running:
        monkeypatch.setenv("MALBOX_URL", running.url)
        monkeypatch.setenv("MALBOX_TOKEN", "secret-token")
        yield running


@pytest.fixture
def malbox(capsys: pytest.CaptureFixture[str]) -> Malbox:
    """Runs `malbox` with the arguments."""

    def run(*arguments: str) -> Outcome:
        code = main(list(arguments))
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run
