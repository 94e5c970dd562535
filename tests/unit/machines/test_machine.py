"""The machine aggregate: who owns it, and whether it is clean."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contracts.machines import GuestEndpoint
from services.chassis.store import make_mapper
from services.chassis.unit import Unit
from services.machines import app
from services.machines.announcements import announce
from services.machines.domain.lifecycle import KNOWN, NEW_EPOCH, TRANSITIONS
from services.machines.domain.machine import Machine, NotPossible
from services.machines.domain.spec import MachineSpec

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SPEC = MachineSpec(machine_id="linux-1", host="local", profile="linux", platform="linux", image="linux")
ENDPOINT = GuestEndpoint(scheme="tcp", host="127.0.0.1", port=7, server_identity="x", ca_pem="pem")


def built() -> Machine:
    """A machine whose snapshot stands."""
    machine = Machine.register(SPEC, NOW)
    machine.start_provisioning("new", NOW)
    machine.complete_provisioning(acceleration="tcg", image_identity="i", evidence={}, at=NOW)
    return machine


def ready() -> Machine:
    """A machine that is verified clean."""
    machine = built()
    machine.verify_clean({"boot_id": "b"}, NOW)
    return machine


def lease(machine: Machine, operation: str = "ope_1") -> Machine:
    """The machine, leased."""
    machine.lease_to("tsk_" + "1" * 32, operation_id=operation, hold_s=60, at=NOW)
    return machine


@pytest.mark.promise("P8")
def test_exactly_one_edge_leads_to_ready_and_it_is_verification() -> None:
    """Nothing but evidence makes a machine ready."""
    edges = [(state, event) for (state, event), target in TRANSITIONS.items() if target == "ready"]
    assert edges == [("verifying", "CleanVerified")]


@pytest.mark.promise("P7")
def test_every_state_can_be_left_but_retired_and_every_word_is_explained() -> None:
    """The table is complete."""
    assert {state for state, _ in TRANSITIONS} == KNOWN.keys() - {"retired"}
    assert {event for _, event in TRANSITIONS} >= NEW_EPOCH


@pytest.mark.promise("P1")
def test_a_leased_machine_is_refused_to_another_task() -> None:
    """One owner."""
    machine = lease(ready())
    with pytest.raises(NotPossible, match="preparing"):
        machine.lease_to("tsk_" + "2" * 32, operation_id="ope_2", hold_s=60, at=NOW)


def test_repeating_a_lease_operation_changes_nothing() -> None:
    """The same order twice is one order."""
    machine = lease(ready())
    version = machine.version
    lease(machine)
    assert machine.version == version


@pytest.mark.promise("P1", "B1b")
def test_a_used_machine_is_never_leased_before_it_is_verified_clean() -> None:
    """After release it is cleaned and verified first."""
    machine = lease(ready())
    machine.attest(ENDPOINT, NOW)
    machine.release(machine.lease_id or "", NOW)
    with pytest.raises(NotPossible):
        lease(machine, "ope_2")
    machine.complete_cleaning(NOW)
    with pytest.raises(NotPossible):
        lease(machine, "ope_2")
    machine.verify_clean({}, NOW)
    assert lease(machine, "ope_2").state == "preparing"


@pytest.mark.promise("G4", "P2")
def test_a_stale_holder_cannot_release_the_next_lease() -> None:
    """A release names its lease."""
    machine = lease(ready())
    stale = machine.lease_id or ""
    machine.release(stale, NOW)
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW)
    lease(machine, "ope_2")
    with pytest.raises(NotPossible, match="not the current lease"):
        machine.release(stale, NOW)


@pytest.mark.promise("B3")
def test_a_machine_that_is_never_verified_is_rebuilt_and_then_quarantined() -> None:
    """Doubt leads forward: clean, rebuild, quarantine; never to ready."""
    machine = built()
    for _ in range(40):
        if machine.state == "verifying":
            machine.fail_verification("no agent", NOW)
        elif machine.state == "cleaning":
            machine.complete_cleaning(NOW)
        elif machine.state == "provisioning":
            machine.complete_provisioning(acceleration="tcg", image_identity="i", evidence={}, at=NOW)
    assert machine.state == "quarantined"
    assert "never verified clean" in machine.quarantine_reason


@pytest.mark.promise("P10")
def test_a_machine_that_cannot_be_cleaned_is_quarantined() -> None:
    """Three failures."""
    machine = lease(ready())
    machine.expire_lease(machine.lease_id or "", "guest_lost", "gone", NOW)
    for _ in range(3):
        machine.fail_cleaning("the process does not end", NOW)
    assert machine.state == "quarantined"


@pytest.mark.promise("B3")
def test_a_machine_that_cannot_be_built_is_left_alone_until_its_image_or_specification_changes() -> None:
    """Settling again with the same wish is not a reason to try for ever."""
    machine = Machine.register(SPEC, NOW)
    machine.start_provisioning("new", NOW, "image 1")
    while machine.state != "quarantined":
        machine.fail_provisioning("it does not boot", NOW)
        if machine.state == "cleaning":
            machine.complete_cleaning(NOW)
    unit = Unit(service="machines", at=NOW, uuid=uuid4, announce=announce)
    machine.collect_events()
    app.settle(unit, machine, SPEC, "image 1")
    assert unit.events == []
    app.settle(unit, machine, SPEC, "image 2")
    assert [type(event).__name__ for event in unit.events] == ["SpecChanged"]


@pytest.mark.promise("G9")
def test_a_machine_is_retired_by_word_only_and_never_while_it_is_in_use() -> None:
    """Quarantined machines may go; any other is refused."""
    machine = ready()
    with pytest.raises(NotPossible, match="ready"):
        machine.retire("by ana", NOW)
    machine.drift("x", NOW)
    machine.quarantine("x", NOW)
    machine.retire("by ana", NOW)
    assert machine.state == "retired"


@pytest.mark.promise("P51")
def test_events_of_the_first_version_are_still_read() -> None:
    """An event stored before it named its image is upcast."""
    machine = Machine.register(SPEC, NOW)
    machine.start_provisioning("new", NOW, "image 1")
    mapper = make_mapper()
    stored = mapper.to_stored_event(machine.collect_events()[1])
    state = json.loads(stored.state)
    del state["image_identity"], state["class_version"]
    old = StoredEvent(stored.originator_id, stored.originator_version, stored.topic, json.dumps(state).encode())
    event: Any = mapper.to_domain_event(old)
    assert event.image_identity == ""


class MachineCells(RuleBasedStateMachine):
    """Any call in any state: refused or along the table; epochs never fall; replay gives the same machine."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine.register(SPEC, NOW)
        self.recorded: list[Any] = []
        self.epoch = 0
        self.operations = 0

    def attempt(self, call: Any) -> None:
        """Possible or not, nothing breaks."""
        version = self.machine.version
        try:
            call()
        except NotPossible:
            assert self.machine.version == version

    @rule()
    def provision(self) -> None:
        """Build."""
        self.attempt(lambda: self.machine.start_provisioning("x", NOW))

    @rule()
    def provisioned(self) -> None:
        """Built."""
        self.attempt(
            lambda: self.machine.complete_provisioning(acceleration="tcg", image_identity="i", evidence={}, at=NOW)
        )

    @rule()
    def provisioning_failed(self) -> None:
        """Not built."""
        self.attempt(lambda: self.machine.fail_provisioning("x", NOW))

    @rule()
    def verified(self) -> None:
        """Clean."""
        self.attempt(lambda: self.machine.verify_clean({}, NOW))

    @rule()
    def not_verified(self) -> None:
        """Not clean."""
        self.attempt(lambda: self.machine.fail_verification("x", NOW))

    @rule()
    def leased(self) -> None:
        """Leased."""
        self.operations += 1
        self.attempt(lambda: lease(self.machine, f"ope_{self.operations}"))

    @rule()
    def attested(self) -> None:
        """Proven."""
        self.attempt(lambda: self.machine.attest(ENDPOINT, NOW))

    @rule()
    def released(self) -> None:
        """Given back."""
        self.attempt(lambda: self.machine.release(self.machine.lease_id or "", NOW))

    @rule()
    def expired(self) -> None:
        """Lost."""
        self.attempt(lambda: self.machine.expire_lease(self.machine.lease_id or "", "guest_lost", "x", NOW))

    @rule()
    def drifted(self) -> None:
        """Changed from outside."""
        self.attempt(lambda: self.machine.drift("x", NOW))

    @rule()
    def cleaned(self) -> None:
        """Cleaned."""
        self.attempt(lambda: self.machine.complete_cleaning(NOW))

    @rule()
    def not_cleaned(self) -> None:
        """Not cleaned."""
        self.attempt(lambda: self.machine.fail_cleaning("x", NOW))

    @rule()
    def respecified(self) -> None:
        """Wanted otherwise."""
        self.attempt(lambda: self.machine.change_spec(SPEC, "i", "x", NOW))

    @invariant()
    def epochs_never_fall(self) -> None:
        """Every change of owner is a new epoch."""
        for event in self.machine.collect_events():
            self.recorded.append(event)
        assert self.machine.epoch >= self.epoch
        self.epoch = self.machine.epoch

    @invariant()
    def only_a_leased_machine_has_an_owner(self) -> None:
        """Owner and state agree."""
        assert (self.machine.lease_id is not None) == (self.machine.state in ("preparing", "active"))

    @invariant()
    def replay_gives_the_same_machine(self) -> None:
        """What is in memory is what the events say."""
        copy: Any = None
        for event in self.recorded:
            copy = event.mutate(copy)
        assert vars(copy) == {**vars(self.machine), "_pending_events": []}


MachineCells.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestEveryCell = pytest.mark.promise("P4", "P7", "P16")(MachineCells.TestCase)
