"""A process is more than its number."""

import dataclasses
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import processes
from deploy.local.processes import Identity
from deploy.local.state import State
from tests.unit.deploy.test_state import ME


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A state directory with room for logs and identities."""
    for name in ("run", "log"):
        (tmp_path / name).mkdir()
    return State(tmp_path, ME)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        yield process
        process.kill()


def sleep(state: State, seconds: str = "60") -> Identity:
    """A process of ours that sleeps."""
    return processes.spawn(state, processes.Command("sleeper", ["/bin/sleep", seconds], ME.services, {}, Path("/")))


def test_a_started_process_is_found_again_and_stopped(state: State) -> None:
    """By its name, through the state directory alone."""
    identity = sleep(state)
    assert processes.started(state, "sleeper") == identity
    assert processes.stop(state, "sleeper")
    assert not identity.is_running()
    assert processes.started(state, "sleeper") is None
    assert not processes.stop(state, "sleeper")


def test_a_recycled_number_is_never_killed(state: State, sleeper: subprocess.Popen[bytes]) -> None:
    """Somebody else has the number that one of ours had: they live on."""
    theirs = Identity.of(sleeper.pid)
    assert theirs is not None
    ours = dataclasses.replace(theirs, started_ticks=theirs.started_ticks - 1)
    processes.remember(state, "sleeper", ours)
    assert processes.started(state, "sleeper") is None
    assert not processes.stop(state, "sleeper")
    assert not processes.end(ours, signal.SIGKILL, 1)
    assert sleeper.poll() is None


def test_a_number_of_another_boot_is_never_killed(state: State, sleeper: subprocess.Popen[bytes]) -> None:
    """After a reboot the same number and instant mean another process."""
    theirs = Identity.of(sleeper.pid)
    assert theirs is not None
    processes.remember(state, "sleeper", dataclasses.replace(theirs, boot_id="another"))
    assert not processes.stop(state, "sleeper")
    assert sleeper.poll() is None


def test_a_process_that_ignores_the_request_is_killed(state: State) -> None:
    """Patience has a bound."""
    argv = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]
    command = processes.Command("stubborn", argv, ME.services, {"PATH": os.environ["PATH"]}, Path("/"))
    identity = processes.spawn(state, command)
    while "ready" not in processes.log_tail(state, "stubborn"):
        assert identity.is_running()
    assert processes.stop(state, "stubborn", timeout_s=0.2)
    assert not identity.is_running()


def test_what_a_killed_process_leaves_in_its_session_is_ended_before_it_starts_again(state: State) -> None:
    """A worker without its master would hold the port of the next one."""
    argv = ["/bin/sh", "-c", "sleep 61 & echo ready; wait"]
    command = processes.Command("master", argv, ME.services, {"PATH": os.environ["PATH"]}, Path("/"))
    master = processes.spawn(state, command)
    while "ready" not in processes.log_tail(state, "master"):
        assert master.is_running()
    workers = [member for member in processes.session_members(master.pid) if member != master]
    assert len(workers) == 1
    os.kill(master.pid, signal.SIGKILL)
    os.waitpid(master.pid, 0)
    assert workers[0].is_running()
    processes.spawn(state, command)
    assert not workers[0].is_running()
    processes.stop(state, "master")


def test_processes_of_the_installation_bear_its_mark(state: State, sleeper: subprocess.Popen[bytes]) -> None:
    """What escapes every pid file is still found; what is not ours is not."""
    identity = sleep(state)
    assert processes.leftovers(state) == [identity]
    assert sleeper.pid not in {found.pid for found in processes.leftovers(state)}
    processes.stop(state, "sleeper")


def test_two_starters_start_one_process(state: State) -> None:
    """Who comes second waits for the lock and finds the process running."""
    found: list[Identity | None] = []

    def second() -> None:
        with processes.only_starter(state, "sleeper"):
            found.append(processes.started(state, "sleeper"))

    other = threading.Thread(target=second)
    with processes.only_starter(state, "sleeper"):
        other.start()
        first = sleep(state)
        assert found == []
    other.join(timeout=10)
    assert found == [first]
    processes.stop(state, "sleeper")
