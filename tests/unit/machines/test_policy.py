"""What an observation means for a machine."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.machines.domain.machine import Machine
from services.machines.policy import (
    BEATS_MISSING_S,
    EVIDENCE_MAX_AGE_S,
    SELF_CURE_DELAYS_S,
    WORK_MISSING_S,
    Finding,
    Observer,
    Picture,
    Standing,
    Verdict,
    judge,
)
from services.machines.policy.beats import LOOK_INTERVAL_S, REPEAT_INTERVAL_S
from services.machines.ports import DomainSeen, GuestAddress
from tests.unit.machines import fleet
from tests.unit.machines.fleet import ENDPOINT, IN_STATE, NOW

LATER = NOW + timedelta(hours=1)
ADDRESS = GuestAddress(ENDPOINT.host, ENDPOINT.port)
ALL_WORK = frozenset((kind, "linux-1") for kind in ("provision", "verify", "prepare", "clean"))


def verified() -> Machine:
    """A ready machine whose agent's place is recorded."""
    machine = fleet.built()
    machine.verify_clean({}, NOW, ENDPOINT)
    return machine


def domain(machine: Machine, state: str = "paused") -> DomainSeen:
    """The domain that the machine should have."""
    return DomainSeen("malbox-linux-1", "linux-1", machine.incarnation_epoch, state, ADDRESS)  # type: ignore[arg-type]


def picture(
    seen: DomainSeen | None, *, now: datetime = NOW, fence: int = 0, work: frozenset[tuple[str, str]] = ALL_WORK
) -> Picture:
    """A host with that domain, or none."""
    return Picture({"linux-1": seen} if seen else {}, {"linux-1": fence}, work, now)


def found(machine: Machine, seen: Picture) -> Finding | None:
    """The judgement on the machine."""
    return judge(Standing.of(machine), seen)


def kind(machine: Machine, seen: Picture) -> tuple[str, str] | None:
    """What is to be done, and about which divergence."""
    finding = found(machine, seen)
    return (finding.act, finding.kind) if finding else None


def leased() -> Machine:
    """An active machine whose agent's place is recorded."""
    machine = fleet.lease(verified())
    machine.attest(ENDPOINT, NOW)
    return machine


def test_a_machine_that_is_as_recorded_is_left_alone() -> None:
    """The positive control of everything below."""
    assert found(verified(), picture(domain(verified()))) is None
    assert found(leased(), picture(domain(leased(), "running"))) is None
    for state in ("registered", "verifying", "cleaning", "quarantined", "maintenance", "retired"):
        assert found(IN_STATE[state](), picture(None)) is None


READY: dict[str, Callable[[DomainSeen], DomainSeen | None]] = {
    "domain_gone": lambda _seen: None,
    "domain_state": lambda seen: replace(seen, state="running"),
    "domain_epoch": lambda seen: replace(seen, epoch=(seen.epoch or 0) - 1),
    "address": lambda seen: replace(seen, address=GuestAddress("127.0.0.1", 8)),
}


@pytest.mark.promise("P6", "P7", "C2")
@pytest.mark.parametrize("divergence", READY)
def test_a_ready_machine_that_is_not_what_was_verified_drifted(divergence: str) -> None:
    """Gone, running, of another epoch, or at another address: nothing remembered is trusted."""
    machine = verified()
    assert kind(machine, picture(READY[divergence](domain(machine)))) == ("drift", divergence)


@pytest.mark.promise("P6", "C2")
@pytest.mark.parametrize("divergence", ["domain_gone", "domain_epoch", "address"])
def test_a_lease_whose_guest_is_not_the_one_recorded_lost_it(divergence: str) -> None:
    """Active in the record, something else or nothing on the host."""
    machine = leased()
    finding = found(machine, picture(READY[divergence](domain(machine, "running"))))
    assert finding is not None
    assert (finding.act, finding.kind, finding.cause) == ("expire", divergence, "guest_lost")


def test_a_guest_that_stands_still_or_is_off_while_it_should_run_is_lost() -> None:
    """Somebody paused it, or its disk is full."""
    assert kind(leased(), picture(domain(leased()))) == ("expire", "domain_state")
    assert kind(leased(), picture(domain(leased(), "off"))) == ("expire", "domain_gone")


@pytest.mark.promise("P7")
def test_unable_to_observe_is_not_off() -> None:
    """No state but by the clock."""
    blind = Picture(None, {}, ALL_WORK, NOW)
    assert [state for state in IN_STATE if found(IN_STATE[state](), blind)] == []
    assert kind(leased(), replace(blind, now=LATER)) == ("expire", "overdue")


@pytest.mark.promise("P8")
def test_evidence_that_is_too_old_is_taken_anew() -> None:
    """That is no divergence."""
    machine = verified()
    late = NOW + timedelta(seconds=EVIDENCE_MAX_AGE_S + 1)
    assert kind(machine, picture(domain(machine), now=late)) == ("renew", "evidence")


@pytest.mark.promise("P11")
@pytest.mark.parametrize("state", ["preparing", "active", "draining"])
def test_a_lease_past_its_hard_deadline_is_over_even_if_its_timer_was_lost(state: str) -> None:
    """The reconciler is the second guard of the deadline."""
    machine = IN_STATE[state]()  # type: ignore[index]
    finding = found(machine, picture(domain(machine, "running"), now=LATER))
    assert finding is not None
    assert (finding.act, finding.cause) == ("expire", "deadline")


@pytest.mark.promise("P10")
def test_a_machine_that_must_not_run_is_stopped() -> None:
    """Whatever became of the work that was to stop it; what an operator does with theirs is not judged."""
    for state, expected in (
        ("quarantined", ("work", "runs")),
        ("retired", ("destroy", "runs")),
        ("registered", ("destroy", "runs")),
        ("maintenance", None),
    ):
        machine = IN_STATE[state]()  # type: ignore[index]
        assert kind(machine, picture(domain(machine, "running"))) == expected


@pytest.mark.promise("P3", "B3")
@pytest.mark.parametrize("state", ["provisioning", "verifying", "cleaning"])
def test_work_that_nobody_has_is_asked_for_again(state: str) -> None:
    """After a minute; not while somebody has it."""
    machine = IN_STATE[state]()  # type: ignore[index]
    at = NOW + timedelta(seconds=WORK_MISSING_S)
    assert kind(machine, picture(None, now=at)) is None
    assert kind(machine, picture(None, now=at, work=frozenset())) == ("work", "work_lost")
    assert kind(machine, picture(None, now=NOW, work=frozenset())) is None


@pytest.mark.promise("P4")
@pytest.mark.parametrize("state", [state for state in IN_STATE if state != "retired"])
def test_a_fence_that_stands_above_the_record_is_repaired_first(state: str) -> None:
    """The record was restored from a backup."""
    machine = IN_STATE[state]()  # type: ignore[index]
    assert kind(machine, picture(None, fence=machine.epoch + 1)) == ("repair", "fence_ahead")
    finding = found(machine, picture(domain(machine), fence=machine.epoch))
    assert finding is None or finding.act != "repair"


def test_a_quarantine_that_may_end_by_itself_ends_in_time() -> None:
    """Even if its timer was lost; one that is an operator's does not."""
    machine = fleet.quarantined()
    late = NOW + timedelta(seconds=SELF_CURE_DELAYS_S[0])
    assert kind(machine, picture(None, now=late - timedelta(seconds=1))) is None
    assert kind(machine, picture(None, now=late)) == ("cure", "cure")
    kept = verified()
    kept.quarantine("tampered", NOW, "digest_mismatch")
    assert kind(kept, picture(None, now=late)) is None


def watch(*seen: tuple[float, tuple[int, int] | None]) -> list[Verdict]:
    """The last verdicts of an observer that saw those beats of one lease at those instants."""
    observer, verdicts = Observer(), []
    for at, beat in seen:
        verdicts = observer.look({"lea_1": 1}, {"lea_1": beat} if beat else {}, at)
    return verdicts


def every(start: float, stop: float, beat: tuple[int, int] | None) -> list[tuple[float, tuple[int, int] | None]]:
    """The same beat, seen at each look between the instants."""
    return [(start + LOOK_INTERVAL_S * index, beat) for index in range(int((stop - start) / LOOK_INTERVAL_S) + 1)]


@pytest.mark.promise("P3", "P19", "B1a")
def test_a_lease_whose_driver_is_silent_for_long_enough_is_over() -> None:
    """By the observer's own clock since it last saw a change; a beat in time is enough."""
    silent = every(0, BEATS_MISSING_S, (1, 1))
    assert watch(*silent) == [Verdict("expire", "lea_1")]
    assert watch(*silent[:-1]) == []
    assert watch(*silent[:-1], (BEATS_MISSING_S, (1, 2))) == []


@pytest.mark.promise("P19")
def test_an_observer_that_slept_has_not_seen_anybody_be_silent() -> None:
    """A process that was stopped for an hour does not end living leases when it goes on."""
    assert watch((0, (1, 1)), (3600, (1, 1))) == []
    assert watch((0, (1, 1)), *every(3600, 3600 + BEATS_MISSING_S, (1, 1))) == [Verdict("expire", "lea_1")]


@pytest.mark.promise("P3")
def test_another_driver_of_the_lease_is_recorded() -> None:
    """A higher term; its beats count from one again."""
    assert watch((0, (1, 9)), (5, (2, 1))) == [Verdict("adopt", "lea_1", 2)]


@pytest.mark.promise("P3")
def test_a_lease_that_nobody_ever_drove_is_granted_again_and_not_ended() -> None:
    """The broker may have lost the grant; the task may wait for a free worker: its hard deadline bounds both."""
    unheard = every(0, REPEAT_INTERVAL_S, None)
    assert watch(*unheard) == [Verdict("repeat", "lea_1")]
    assert watch(*unheard, (REPEAT_INTERVAL_S + LOOK_INTERVAL_S, None)) == []
