"""Ports are chosen once, kept, and moved aside with a name for who took them."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import ports
from deploy.local.state import DeployError, State, Users


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A state directory with room for settings."""
    (tmp_path / "etc").mkdir()
    return State(tmp_path, Users("a", "a", "a", "a"))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody who listens on a port of loopback."""
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, 0))
        taken.listen()
        yield taken


def test_ports_stay_the_same(state: State) -> None:
    """What was chosen at first is used ever after."""
    first, _ = ports.settle(state)
    second, moved = ports.settle(state)
    assert first.text() == second.text()
    assert moved == []


def test_every_part_has_a_port_of_its_own(state: State) -> None:
    """No port is given away twice."""
    chosen, _ = ports.settle(state)
    assert len({chosen[name] for name in ports.NAMES}) == len(ports.NAMES)


def test_a_taken_port_is_given_up_and_its_taker_named(state: State, listener: socket.socket) -> None:
    """The operator reads which process took which port, and what is used instead."""
    chosen, _ = ports.settle(state)
    number = listener.getsockname()[1]
    text = chosen.text().replace(f"gateway = {chosen['gateway']}", f"gateway = {number}")
    ports.ports_file(state).write_text(text)
    again, moved = ports.settle(state)
    assert again["gateway"] != number
    assert [one.name for one in moved] == ["gateway"]
    assert f"port {number} (gateway) is taken by python" in str(moved[0])


def test_a_port_that_is_ours_stays(state: State, listener: socket.socket) -> None:
    """A running part of the installation holds its port rightly."""
    chosen, _ = ports.settle(state)
    number = listener.getsockname()[1]
    ports.ports_file(state).write_text(chosen.text().replace(str(chosen["gateway"]), str(number)))
    again, moved = ports.settle(state, frozenset({"gateway"}))
    assert (again["gateway"], moved) == (number, [])


@pytest.mark.parametrize("content", ["gateway = 1", "not toml", "gateway = 'x'"])
def test_a_damaged_file_of_ports_says_what_to_do(state: State, content: str) -> None:
    """It names the file and that deleting it helps."""
    ports.ports_file(state).write_text(content)
    with pytest.raises(DeployError, match="delete"):
        ports.settle(state)
