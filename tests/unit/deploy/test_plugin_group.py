"""Where the plugins service makes control groups for its sandboxes: given to its user, in both kinds of trees."""

import os
import subprocess
from pathlib import Path

import pytest

from deploy.local import guest_group, plugin_group
from deploy.local.state import State, ids_of
from tests.unit.deploy.test_guest_group import V2, kernel

CONTROLLERS = "cpu memory pids"


@pytest.fixture
def state(tmp_path: Path) -> State:
    """An installation that was prepared as far as it must be here."""
    made = State(tmp_path / "state")
    made.run.mkdir(parents=True)
    return made


def tree(root: Path) -> Path:
    """The second kind as a directory: a group that gives its controllers to others, and in it this process's own."""
    proc = kernel(root, V2, "0::/up/own\n")
    for place in (root, root / "up", root / "up" / "own"):
        place.mkdir(exist_ok=True)
        given = CONTROLLERS if place.name == "up" else ""
        (place / "cgroup.subtree_control").write_text(given, encoding="ascii")
    return proc


def test_the_second_kind_has_a_group_for_the_service_beside_those_of_the_sandboxes(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Controllers are passed on, the service is started in its group, and the directories are remembered."""
    proc = tree(tmp_path)
    monkeypatch.setattr(plugin_group, "DELEGATED", ("cgroup.subtree_control",))
    [place] = plugin_group.prepare(state, proc)
    assert place.parent == tmp_path / "up"
    assert (place / "cgroup.subtree_control").read_text(encoding="ascii") == "+memory +pids +cpu"
    command = plugin_group.joined(state, state.users.services, ["/bin/true"])
    assert command is not None
    assert str(place / plugin_group.SERVICE) in command[3]
    assert plugin_group.places(state) == plugin_group.prepare(state, proc) == [place]


def test_where_the_kernel_refuses_there_is_none_and_nothing_is_left(tmp_path: Path, state: State) -> None:
    """No tree, or one in which no directory can be made: the service is started as it always was."""
    assert plugin_group.prepare(state, kernel(tmp_path, "", "")) == []
    assert plugin_group.joined(state, state.users.services, ["/bin/true"]) is None
    (tmp_path / "other").mkdir()
    proc = tree(tmp_path / "other")
    name = tmp_path / "other" / "up"
    (name / "cgroup.subtree_control").write_text(CONTROLLERS, encoding="ascii")
    if os.geteuid() != 0:
        name.chmod(0o500)
        assert plugin_group.prepare(state, proc) == []
        name.chmod(0o700)
    assert list(name.glob("malbox-*")) == []


def test_a_group_of_an_earlier_start_of_the_host_is_none(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered belongs to the boot in which it was made."""
    monkeypatch.setattr(plugin_group, "DELEGATED", ("cgroup.subtree_control",))
    assert plugin_group.prepare(state, tree(tmp_path))
    monkeypatch.setattr(guest_group, "boot_id", lambda: "another")
    assert plugin_group.places(state) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a control group to another user")
@pytest.mark.promise("P34")
def test_the_services_user_can_limit_and_enter_a_group_that_it_makes(state: State) -> None:
    """In the real trees of this host; before they are given, the control, it cannot. Afterwards they are gone."""
    places = plugin_group.prepare(state)
    try:
        assert places
        for place in places:
            script = f"mkdir {place}/sandbox-x && echo $$ > {place}/sandbox-x/cgroup.procs && cat /proc/self/cgroup"
            done = as_service(state, script)
            assert done.returncode == 0, done.stderr
            assert "sandbox-x" in done.stdout
            assert as_service(state, f"mkdir {place.parent}/sandbox-x").returncode != 0
    finally:
        assert plugin_group.remove(state)
    assert not any(place.exists() for place in places)
    assert plugin_group.places(state) == []


def as_service(state: State, script: str) -> subprocess.CompletedProcess[str]:
    """The script ran as the user of the plugins service."""
    uid, gid = ids_of(state.users.of_service("plugins"))
    return subprocess.run(
        ["/bin/sh", "-c", script],
        user=uid, group=gid, extra_groups=[], check=False, capture_output=True, text=True, timeout=20, cwd="/",
    )  # fmt: skip
