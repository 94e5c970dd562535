"""What guests may use up of the host: how much it is, and where the kernel is told so, in both kinds of groups."""

from pathlib import Path

import pytest

from deploy.local import doctor, guest_group
from deploy.local.guest_group import Allowance, Hierarchy
from deploy.local.state import State
from services.machines.domain.spec import MachineSpec

FLEET = """
[profile.linux]
memory_mib = 512
[profile.plain]
[[machine]]
id = "a"
profile = "linux"
[[machine]]
id = "b"
profile = "linux"
memory_mib = 2048
[[machine]]
id = "c"
profile = "plain"
"""
V1 = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / {root}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/x {root}/memory rw - cgroup cgroup rw,memory
39 31 0:36 / {root}/pids rw - cgroup cgroup rw,pids
41 31 0:38 / {root}/unified rw - cgroup2 cgroup2 rw
"""
V1_OWN = "9:name=systemd:/\n8:pids:/user.slice\n4:memory:/docker/x/inner\n1:cpu,cpuacct:/\n0::/\n"
V2 = "30 23 0:27 / {root} rw - cgroup2 cgroup2 rw,nsdelegate\n"


def kernel(root: Path, mountinfo: str, own: str) -> Path:
    """What the kernel says of itself in /proc/self."""
    (root / "proc").mkdir()
    (root / "proc" / "mountinfo").write_text(mountinfo.format(root=root))
    (root / "proc" / "cgroup").write_text(own)
    return root / "proc"


def meminfo(root: Path, total_mib: int) -> Path:
    """A host with that much memory."""
    (root / "meminfo").write_text(f"MemTotal: {total_mib * 1024} kB\nMemFree: 1 kB\n")
    return root / "meminfo"


@pytest.mark.promise("P26")
def test_guests_get_what_their_machines_need_and_leave_the_host_its_part(tmp_path: Path) -> None:
    """The sum of the machines and of what emulators take; on a small host three quarters of it at most."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(FLEET)
    needed = 512 + 2048 + 1024 + 4 * guest_group.OVERHEAD_MIB
    assert guest_group.allowance(fleet, meminfo(tmp_path, 64_000)) == Allowance(needed, 256 + 3 * 128)
    assert guest_group.allowance(fleet, meminfo(tmp_path, 6_000)).memory_mib == 6_000 - 2_048
    assert MachineSpec.model_fields["memory_mib"].default == guest_group.MEMORY_DEFAULT_MIB
    for broken in ("", "[[machine]]\nid = 'x'\nprofile = 'none'\n", "machine = 3", "\x00"):
        fleet.write_text(broken)
        assert guest_group.allowance(fleet, meminfo(tmp_path, 64_000)).memory_mib == 48_000


def test_the_group_is_made_below_the_starters_own_in_each_tree_of_the_first_kind(tmp_path: Path) -> None:
    """Trees of several controllers, of a part of the hierarchy, and of none of ours are told apart."""
    assert guest_group.hierarchies(kernel(tmp_path, V1, V1_OWN)) == {
        "cpu": Hierarchy(1, tmp_path / "cpu,cpuacct"),
        "memory": Hierarchy(1, tmp_path / "memory" / "inner"),
        "pids": Hierarchy(1, tmp_path / "pids" / "user.slice"),
    }


def test_in_the_second_kind_the_group_is_made_where_its_controllers_are_handed_down(tmp_path: Path) -> None:
    """That is the nearest group above the starter's own that hands them down; without one there is no limit."""
    own = tmp_path / "user.slice" / "session.scope"
    own.mkdir(parents=True)
    proc = kernel(tmp_path, V2, "0::/user.slice/session.scope\n")
    assert guest_group.hierarchies(proc) == {}
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (tmp_path / "user.slice" / "cgroup.subtree_control").write_text("memory pids\n")
    (own / "cgroup.subtree_control").write_text("\n")
    slice_ = Hierarchy(2, tmp_path / "user.slice")
    assert guest_group.hierarchies(proc) == {"memory": slice_, "pids": slice_, "cpu": Hierarchy(2, tmp_path)}


@pytest.mark.promise("P26")
@pytest.mark.parametrize(
    ("version", "memory", "weight"),
    [(1, "memory.limit_in_bytes", ("cpu.shares", "256")), (2, "memory.max", ("cpu.weight", "25"))],
)
def test_the_kernel_is_told_in_the_words_of_its_kind(
    version: int, memory: str, weight: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits are widened when the file names more machines, and never made narrower while something runs."""
    trees = dict.fromkeys(guest_group.CONTROLLERS, Hierarchy(version, tmp_path))
    monkeypatch.setattr(guest_group, "hierarchies", lambda: trees)
    state = State(tmp_path / "state")
    state.run.mkdir(parents=True)
    group = guest_group.prepare(state, Allowance(1000, 300))
    (place,) = group.directories
    assert (place / memory).read_text() == str(1000 << 20)
    assert (place / "pids.max").read_text() == "300"
    assert (place / weight[0]).read_text() == weight[1]
    guest_group.widen(state, Allowance(2000, 200))
    assert ((place / memory).read_text(), (place / "pids.max").read_text()) == (str(2000 << 20), "300")
    assert guest_group.said(group) == (
        "2000 MiB of memory, 300 processes, 1/4 of a service's weight on the processors",
        "",
    )


@pytest.mark.promise("P26", "P27")
def test_a_host_without_control_groups_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests run without limits then: the reason is kept, and the doctor names what is missing and what to do."""
    monkeypatch.setattr(guest_group, "hierarchies", dict)
    state = State(tmp_path)
    state.run.mkdir()
    group = guest_group.prepare(state, Allowance(1000, 300))
    assert (group.places, set(group.missing)) == ({}, set(guest_group.CONTROLLERS))
    assert "memory: no tree of control groups" in guest_group.said(group)[1]
    [note] = doctor.guest_limits(state)
    assert (note.level, note.remedy.startswith("start Malbox as root")) == ("note", True)
    for controller in guest_group.CONTROLLERS:
        assert controller in note.found
