"""The private libvirt daemon and its emulators in a control group of the real kernel, and what its limits do."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from deploy.local import doctor, guest_group, processes
from deploy.local import libvirt as daemon
from deploy.local.guest_group import Allowance, Group
from deploy.local.state import State
from tests.integration import hypervisor_harness as harness

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PROCESSES, MEMORY_MIB = 40, 96
EMPTY = """
<domain type='qemu'><name>empty</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>
"""
FORKS = """
import os, sys, time
made = 0
try:
    for made in range(80):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
except BlockingIOError:
    pass
finally:
    sys.stdout.write(str(made))
    sys.stdout.flush()
    os.killpg(0, 9)
"""
HOG = f"held = b'x' * ({4 * MEMORY_MIB} << 20); print(len(held))"


@pytest.fixture(name="state")
def state_fixture() -> Iterator[State]:
    """A state directory, as far as the hypervisor needs one."""
    with harness.directory() as root:
        yield harness.prepare(root)


@pytest.fixture(name="small")
def small_fixture(state: State) -> Iterator[Group]:
    """A group with little room."""
    group = guest_group.prepare(state, Allowance(MEMORY_MIB, PROCESSES))
    assert group.missing == {}, "this host gives Malbox no control groups: nothing limits guests here"
    yield group
    assert guest_group.remove(state)
    assert [place for place in group.directories if place.exists()] == []


@pytest.mark.promise("P26")
def test_the_daemon_and_every_emulator_are_in_the_group_until_nothing_runs(state: State) -> None:
    """Started by an unprivileged user that could not have joined it; the doctor says what the limits are."""
    started = daemon.start(state)
    try:
        group = guest_group.remembered(state)
        assert group is not None
        connection = libvirt.open(started.uri)
        connection.createXML(EMPTY, 0)
        emulators = [pid for pid in group.members() if "qemu-system" in _command(pid)]
        connection.close()
        assert emulators, "the emulator is in the group"
        daemons = [one.pid for one in processes.session_members(started.pid)]
        outside = {*daemons, *emulators} - group.members()
        assert [pid for pid in outside if _command(pid)] == [], "but for what the daemon asked its emulator and is over"
        assert group.holds(started.pid)
        assert all("\t0\t" not in _users(pid) for pid in group.members())
        [finding] = doctor.guest_limits(state)
        assert (finding.level, "MiB of memory" in finding.found, "processes" in finding.found) == ("ok", True, True)
    finally:
        daemon.stop(state)
    assert guest_group.remembered(state) is None
    assert [place for place in group.directories if place.exists()] == []


@pytest.mark.promise("P26")
def test_processes_beyond_the_limit_are_not_made(state: State, small: Group) -> None:
    """A process that forks on and on in the group is refused; outside of it the same is not, the control."""
    assert int(_run(FORKS, None, state).stdout) == 79
    assert 0 < int(_run(FORKS, small, state).stdout) < PROCESSES


@pytest.mark.promise("P26")
def test_memory_beyond_the_limit_ends_who_took_it(state: State, small: Group) -> None:
    """It is killed in the group; outside of it the same gets its memory, the control."""
    assert _run(HOG, None, state).returncode == 0
    ended = _run(HOG, small, state)
    assert (ended.returncode, ended.stdout) == (-9, "")


def _run(program: str, group: Group | None, state: State) -> subprocess.CompletedProcess[str]:
    """The program, run as the hypervisor's user, in the group or in none."""
    argv = guest_group.joined(group or Group(), state.users.machines, ["/usr/bin/python3", "-c", program])
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, start_new_session=True, cwd="/"
    )


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _users(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text(encoding="utf-8").partition("Uid:")[2].splitlines()[0]
    except OSError:
        return ""  # the daemon starts others for a moment: it has ended
