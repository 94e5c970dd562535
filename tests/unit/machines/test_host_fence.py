"""The host's durable memory of who owned a machine last."""

import multiprocessing
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.machines.adapters.host_fence import HostFence, highest_of_all
from services.machines.domain.fence import UNTOUCHED, Claim, Fence
from services.machines.errors import HypervisorRefused, HypervisorUnavailable, StaleClaim, StaleEpoch


@pytest.mark.promise("G4", "P2")
def test_an_older_owner_is_refused_after_a_newer_one_acted(tmp_path: Path) -> None:
    """A stale worker meets a higher number and does not act."""
    fence = HostFence(tmp_path / "linux-1")
    with fence.acting(2, timeout_s=1):
        pass
    acted = False
    with pytest.raises(StaleEpoch), fence.acting(1, timeout_s=1):
        acted = True
    assert not acted


@pytest.mark.promise("P4")
def test_the_fence_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    """Another object over the same directory, as after a restart, knows the number."""
    HostFence(tmp_path / "linux-1").advance(5)
    assert HostFence(tmp_path / "linux-1").highest() == 5
    with pytest.raises(StaleEpoch):
        HostFence(tmp_path / "linux-1").advance(4)


def test_the_same_owner_may_act_again(tmp_path: Path) -> None:
    """Repeating an action is no trespass."""
    fence = HostFence(tmp_path / "linux-1")
    for _ in range(2):
        with fence.acting(3, timeout_s=1):
            assert fence.highest() == 3


@pytest.mark.promise("P2")
@pytest.mark.parametrize("later", [Claim(7, 2), Claim(8, 1)], ids=["taken over", "next work"])
def test_of_one_epochs_workers_the_latest_is_obeyed(tmp_path: Path, later: Claim) -> None:
    """Whoever stood still while another took the work over has a valid epoch still, and does not act."""
    fence, stopped = HostFence(tmp_path / "linux-1"), Claim(7, 1)
    for claim in (stopped, later, later):
        with fence.acting(3, claim, timeout_s=1):
            assert HostFence(tmp_path / "linux-1").stands() == Fence(3, claim)
    for asked in (fence.advance, fence.check):
        with pytest.raises(StaleClaim, match=rf"claim 7.1 of epoch 3 is over: linux-1 is at claim {later}"):
            asked(3, stopped)
    assert fence.stands() == Fence(3, later)
    fence.advance(4, stopped)
    assert fence.stands() == Fence(4, stopped), "claims are counted within an epoch"


def test_who_only_watches_acts_for_the_epoch(tmp_path: Path) -> None:
    """Without a claim it is refused by no worker of its epoch, and ends none's turn."""
    fence = HostFence(tmp_path / "linux-1")
    fence.advance(3, Claim(7, 2))
    with fence.acting(3, timeout_s=1):
        assert fence.stands() == Fence(3, Claim(7, 2))
    with pytest.raises(StaleEpoch):
        fence.advance(2)
    fence.advance(4)
    assert fence.stands() == Fence(4)


@pytest.mark.promise("P4")
def test_a_fence_of_one_number_is_an_epoch_without_a_claim(tmp_path: Path) -> None:
    """As a version before this one left it: earlier epochs are refused, any claim of this one acts and is kept."""
    fence = HostFence(tmp_path / "linux-1")
    fence.path.parent.mkdir()
    fence.path.write_text("5", encoding="ascii")
    assert fence.stands() == Fence(5)
    with pytest.raises(StaleEpoch):
        fence.advance(4, Claim(9, 9))
    fence.advance(5, Claim(1, 1))
    assert fence.path.read_text(encoding="ascii") == "5 1 1"


@pytest.mark.promise("P4")
@given(
    asked=st.lists(
        st.builds(Fence, st.integers(0, 5), st.builds(Claim, st.integers(1, 4), st.integers(1, 3))),
        min_size=1,
        max_size=12,
    )
)
def test_the_fence_never_goes_back(tmp_path_factory: pytest.TempPathFactory, asked: list[Fence]) -> None:
    """Whatever order epochs and claims come in, the fence is the highest of them."""
    fence = HostFence(tmp_path_factory.mktemp("fence") / "linux-1")
    highest = UNTOUCHED
    for one in asked:
        if one < highest:
            with pytest.raises(StaleEpoch):
                fence.advance(*one)
        else:
            fence.advance(*one)
        highest = max(highest, one)
        assert fence.stands() == highest


@pytest.mark.parametrize("later", [Fence(2), Fence(1, Claim(7, 2))], ids=["by an owner", "by a worker"])
def test_whoever_waits_for_the_lock_is_refused_when_it_was_overtaken(tmp_path: Path, later: Fence) -> None:
    """The fence is asked again once the lock is held: the wait may have been longer than the ownership."""
    fence = HostFence(tmp_path / "linux-1")
    outcome: list[str] = []

    def overtaken() -> None:
        try:
            with fence.acting(1, Claim(7, 1), timeout_s=10):
                outcome.append("acted")
        except StaleEpoch:
            outcome.append("refused")

    with fence.acting(1, Claim(7, 1), timeout_s=1):
        waiting = threading.Thread(target=overtaken)
        waiting.start()
        waiting.join(timeout=0.2)
        assert waiting.is_alive()
        fence.advance(*later)
    waiting.join(timeout=10)
    assert outcome == ["refused"]


def test_a_machine_that_somebody_acts_on_is_said_to_be_busy(tmp_path: Path) -> None:
    """The wait for the lock has a bound and ends in a transient error."""
    fence = HostFence(tmp_path / "linux-1")
    with fence.acting(1, timeout_s=1), pytest.raises(HypervisorUnavailable), fence.acting(1, timeout_s=0.05):
        pass


def _hold(directory: Path, held: "multiprocessing.synchronize.Event") -> None:
    with HostFence(directory).acting(1, timeout_s=5):
        held.set()
        threading.Event().wait(60)


@pytest.mark.promise("P3")
def test_a_killed_process_holds_no_machine(tmp_path: Path) -> None:
    """The kernel gives the lock back when its holder is killed in the middle of an action."""
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "linux-1", held))
    holder.start()
    assert held.wait(30)
    holder.kill()
    holder.join(10)
    with HostFence(tmp_path / "linux-1").acting(2, timeout_s=5):
        assert HostFence(tmp_path / "linux-1").highest() == 2


@pytest.mark.promise("P4", "P7")
@pytest.mark.parametrize("text", ["", "4 1", "4 1 1 1", "four"])
def test_a_fence_that_cannot_be_read_lets_nobody_act(tmp_path: Path, text: str) -> None:
    """It may have stood anywhere; the fences of other machines are still read."""
    HostFence(tmp_path / "good").advance(3)
    HostFence(tmp_path / "bad").advance(4)
    (tmp_path / "bad" / "fence").write_text(text, encoding="ascii")
    with pytest.raises(HypervisorRefused, match="bad"), HostFence(tmp_path / "bad").acting(9, timeout_s=1):
        pytest.fail("it acted")
    assert highest_of_all(tmp_path) == {"good": 3}
