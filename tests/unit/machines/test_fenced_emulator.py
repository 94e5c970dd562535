"""What libvirt starts in the emulator's place knows by the files that it is given whether its turn is over."""

from pathlib import Path

import pytest

from services.machines.adapters import fenced_emulator
from services.machines.adapters.host_fence import HostFence
from services.machines.adapters.machine_files import DISK, MachineFiles
from services.machines.domain.fence import Claim, Fence

NOBODYS, FIRST, SECOND = None, Claim(7, 1), Claim(7, 2)


def words(directory: Path) -> list[str]:
    """Some of an emulator's arguments."""
    return ["-name", "guest=m", "-blockdev", f'{{"driver":"file","filename":"{directory / DISK}"}}']


@pytest.mark.promise("P2", "P25")
@pytest.mark.parametrize(
    ("stands", "order", "said"),
    [
        (Fence(3, FIRST), (3, FIRST), ""),
        (Fence(3, SECOND), (3, FIRST), "claim 7.1 of epoch 3 is over: {} is at 7.2"),
        (Fence(3, Claim(10, 1)), (3, SECOND), "claim 7.2 of epoch 3 is over: {} is at 10.1"),
        (Fence(4, FIRST), (3, SECOND), "epoch 3 is over: {} is at epoch 4"),
        (Fence(3, SECOND), (3, NOBODYS), ""),
        (Fence(4), (3, NOBODYS), "epoch 3 is over: {} is at epoch 4"),
        (Fence(2, SECOND), (3, FIRST), ""),
    ],
)
@pytest.mark.parametrize("kind", ["life", "building"])
def test_an_order_is_refused_once_a_later_one_acted(
    stands: Fence, order: tuple[int, Claim | None], said: str, kind: str, tmp_path: Path
) -> None:
    """A later epoch, or a later claim of this one; directories that name no claim are judged by their epoch."""
    files = MachineFiles(tmp_path, "m")
    HostFence(files.directory).advance(*stands)
    directory = getattr(files, kind)(*order)
    assert fenced_emulator.refusal(words(directory)) == said.format(files.directory)


def test_a_fence_of_one_number_refuses_no_claim_of_its_epoch(tmp_path: Path) -> None:
    """As the version before left it, until whoever acts next raises it."""
    files = MachineFiles(tmp_path, "m")
    files.directory.mkdir()
    (files.directory / "fence").write_text("3", encoding="ascii")
    assert fenced_emulator.refusal(words(files.life(3, FIRST))) == ""
    assert "is over" in fenced_emulator.refusal(words(files.life(2, SECOND)))


@pytest.mark.parametrize("text", [None, "", "3 7", "3 7 1 1", "not a number"])
def test_a_machine_without_a_fence_that_can_be_read_is_not_started(text: str | None, tmp_path: Path) -> None:
    """Unknown is not allowed; what has no files of a machine is a question about the emulator, and is answered."""
    files = MachineFiles(tmp_path, "m")
    files.directory.mkdir()
    if text is not None:
        (files.directory / "fence").write_text(text, encoding="ascii")
    assert "cannot be read" in fenced_emulator.refusal(words(files.life(3, FIRST)))
    assert fenced_emulator.refusal(["-machine", "none", "-qmp", "unix:/tmp/x/monitor"]) == ""
