"""A process dies around every sync of a machine's files: what is found afterwards is whole, or is not there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.chassis import crash_points
from services.machines.adapters.kept_files import write_durably
from services.machines.adapters.machine_files import DISK, ENROLMENT, MEMORY, MachineFiles
from services.machines.errors import HypervisorRefused

pytestmark = pytest.mark.promise("P3")
ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 30
MEMBERS = (DISK, MEMORY, ENROLMENT)
DO = """
import os, sys
from pathlib import Path
from services.chassis import crash_points
from tests.unit.machines import test_machine_files_deaths as deaths
crash_points.arm(os.environ[crash_points.VARIABLE])
getattr(deaths, sys.argv[1])(Path(sys.argv[2]))
"""


def build(directory: Path, epoch: int = 2) -> MachineFiles:
    """A snapshot of small files that say of which epoch they are is published."""
    files = MachineFiles(directory, "linux-1")
    files.discard_lives()
    building = files.building(epoch)
    building.mkdir(parents=True)
    for name in MEMBERS:
        (building / name).write_bytes(f"{name} of epoch {epoch}".encode())
    files.publish(building, epoch=epoch, accelerator="tcg", domain_identity="0" * 64, image=[])
    return files


def keep(directory: Path, content: str = "new") -> None:
    """A record is replaced."""
    write_durably(directory / "record", content)


def dies(doing: str, directory: Path, where: str) -> None:
    """A process of its own came to the point while it did that, and died there."""
    environment = {**os.environ, crash_points.VARIABLE: where}
    done = subprocess.run(
        [sys.executable, "-c", DO, doing, str(directory)],
        cwd=ROOT,
        env=environment,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("where", "stands"),
    [
        ("snapshot.before:1", 1),
        (f"snapshot.before:{len(MEMBERS)}", 1),
        ("record.before", 1),
        ("record.after", 1),
        ("snapshot.after", 2),
    ],
)
def test_a_snapshot_that_was_not_published_leaves_the_one_before(tmp_path: Path, where: str, stands: int) -> None:
    """Never one that is half the other's; what was begun is thrown away by the next, which is published."""
    files = build(tmp_path, epoch=1)
    dies("build", tmp_path, where)
    snapshot = files.snapshot()
    assert snapshot.epoch == stands
    assert {name: (files.warm / name).read_text() for name in MEMBERS} == {
        name: f"{name} of epoch {stands}" for name in MEMBERS
    }
    build(tmp_path, epoch=3)
    assert files.snapshot().epoch == 3
    assert {path.name for path in files.directory.iterdir()} == {"warm"}


@pytest.mark.parametrize(("where", "content"), [("record.before", "old"), ("record.after", "new")])
def test_a_record_is_the_old_one_or_the_new_one(tmp_path: Path, where: str, content: str) -> None:
    """And can be written again."""
    keep(tmp_path, "old")
    dies("keep", tmp_path, where)
    assert (tmp_path / "record").read_text() == content
    keep(tmp_path, "newest")
    assert [path.name for path in tmp_path.iterdir()] == ["record"]


def test_a_first_snapshot_that_was_not_published_is_none(tmp_path: Path) -> None:
    """Nothing is restored from files that nobody digested."""
    dies("build", tmp_path, "record.after")
    with pytest.raises(HypervisorRefused, match="no warm snapshot"):
        MachineFiles(tmp_path, "linux-1").snapshot()
    assert build(tmp_path).snapshot().epoch == 2
