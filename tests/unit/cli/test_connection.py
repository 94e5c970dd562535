"""Where the command line finds Malbox, and what it says when it does not."""

from pathlib import Path

import pytest

from cli.connection import Connection, resolve, state_directory
from cli.errors import Unreachable, Usage
from tests.unit.cli.conftest import Malbox


def state_in(directory: Path, *, endpoint: str = 'url = "http://127.0.0.1:8080/"\n') -> Path:
    (directory / "etc").mkdir()
    (directory / "etc" / "endpoint.toml").write_text(endpoint)
    (directory / "admin-token").write_text("t0\n")
    return directory


def test_the_state_directory_names_origin_and_token(tmp_path: Path) -> None:
    """An installation needs no settings of the client."""
    state = state_in(tmp_path)
    assert resolve({"MALBOX_STATE": str(state)}) == Connection("http://127.0.0.1:8080", "t0")


def test_the_environment_comes_first(tmp_path: Path) -> None:
    """A distant Malbox is reached without a state directory."""
    environment = {"MALBOX_URL": "https://lab.example", "MALBOX_TOKEN": "t1", "MALBOX_STATE": str(tmp_path)}
    assert resolve(environment) == Connection("https://lab.example", "t1")


def test_without_a_name_the_state_directory_is_here() -> None:
    """`.malbox` in the current directory is the default."""
    assert state_directory({}) == Path(".malbox")


@pytest.mark.promise("P40", "P49")
def test_the_token_is_never_shown() -> None:
    """Printing a connection does not print what proves it."""
    assert "t0ken" not in repr(Connection("http://127.0.0.1", "t0ken"))


@pytest.mark.parametrize("endpoint", ["not toml", "other = 1\n", "url = 7\n"])
def test_a_damaged_endpoint_says_how_to_write_it_again(tmp_path: Path, endpoint: str) -> None:
    """The remedy is in the message."""
    with pytest.raises(Unreachable) as caught:
        resolve({"MALBOX_STATE": str(state_in(tmp_path, endpoint=endpoint))})
    assert "malbox up" in caught.value.remedy


@pytest.mark.parametrize("url", ["ftp://host", "nonsense", "http://"])
def test_a_url_that_is_none_is_wrong_usage(url: str) -> None:
    """Nothing is sent anywhere."""
    with pytest.raises(Usage):
        resolve({"MALBOX_URL": url, "MALBOX_TOKEN": "t"})


def test_without_an_installation_the_command_exits_3_and_says_what_to_do(
    malbox: Malbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not running is its own exit code."""
    monkeypatch.delenv("MALBOX_URL", raising=False)
    monkeypatch.setenv("MALBOX_STATE", str(tmp_path / "none"))
    outcome = malbox("task", "list")
    assert outcome.code == 3
    assert "malbox up" in outcome.err


def test_an_origin_that_does_not_answer_exits_3(malbox: Malbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port is reported at once, with the address."""
    monkeypatch.setenv("MALBOX_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MALBOX_TOKEN", "t")
    outcome = malbox("task", "list")
    assert outcome.code == 3
    assert "127.0.0.1:1" in outcome.err
