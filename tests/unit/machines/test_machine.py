"""The machine aggregate: who owns it, and whether it is clean."""

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from eventsourcing.persistence import StoredEvent

from contracts.machines import Acceleration
from contracts.scheduler import LeaseMachine, ReleaseMachine
from services.chassis.store import make_mapper
from services.chassis.unit import Unit
from services.machines import app
from services.machines.announcements import announce
from services.machines.domain.lifecycle import KNOWN, NEW_EPOCH, TRANSITIONS
from services.machines.domain.machine import Machine, NotPossible
from services.machines.domain.record import QuarantineCause
from services.machines.policy import STATE_MAX_S
from tests.unit.machines.fleet import ENDPOINT, NOW, SPEC, TASK, built, lease, ready


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


@pytest.mark.promise("P27")
@pytest.mark.parametrize(
    ("acceleration", "allowed", "accepted"), [("tcg", False, False), ("tcg", True, True), ("kvm", False, True)]
)
def test_only_virtualisation_or_the_operators_word_lets_untrusted_samples_in(
    acceleration: Acceleration, *, allowed: bool, accepted: bool
) -> None:
    """What the machine says of itself, and what it grants: a lease for an untrusted sample is refused elsewhere."""
    machine = Machine.register(SPEC.model_copy(update={"accepts_untrusted": allowed}), NOW)
    machine.start_provisioning("new", NOW)
    machine.complete_provisioning(acceleration=acceleration, image_identity="i", evidence={}, at=NOW)
    machine.verify_clean({"boot_id": "b"}, NOW)
    assert machine.summary().accepts_untrusted is accepted
    unit = Unit(service="machines", at=NOW, uuid=uuid4, announce=announce)
    order = LeaseMachine(
        operation_id="ope_1",
        task_id=TASK,
        machine_id="linux-1",
        host="local",
        route="none",
        hold_s=60,
        untrusted=True,
    )
    app.lease(unit, machine, order)
    assert (machine.lease_id is not None) is accepted
    said = [json.loads(row.body)["type"] for row in unit.outbox]
    assert ("malbox.machine.lease-refused.v1" in said) is not accepted


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
def test_a_machine_that_is_never_verified_is_quarantined_and_cures_itself_twice_at_most() -> None:
    """Doubt leads forward: clean, quarantine, rebuild, quarantine; never to ready."""
    machine = built()
    cures = 0
    while machine.state != "quarantined" or machine.cures_itself:
        if machine.state == "verifying":
            machine.fail_verification("no agent", NOW)
        elif machine.state == "cleaning":
            machine.complete_cleaning(NOW)
        elif machine.state == "provisioning":
            machine.complete_provisioning(acceleration="tcg", image_identity="i", evidence={}, at=NOW)
        else:
            machine.start_provisioning("cure", NOW)
            cures += 1
    assert cures == 2
    assert "never verified clean" in machine.quarantine_reason
    with pytest.raises(NotPossible, match="an operator decides"):
        machine.start_provisioning("cure", NOW)


@pytest.mark.promise("P7", "P10")
@pytest.mark.parametrize("cause", ["digest_mismatch", "operator"])
def test_a_machine_whose_files_were_changed_never_builds_itself_again(cause: QuarantineCause) -> None:
    """Neither by itself nor because somebody put another image there; an operator may."""
    machine = built()
    machine.quarantine("disk.qcow2 has another sha256", NOW, cause)
    assert not machine.cures_itself
    with pytest.raises(NotPossible):
        machine.start_provisioning("cure", NOW)
    machine.want(SPEC, "another image", NOW)
    machine.rebuild("ana", "the image is as it was", NOW)
    assert [type(event).__name__ for event in machine.collect_events()][-2:] == ["SpecRequested", "ProvisioningStarted"]


@pytest.mark.promise("P22", "P1")
def test_a_breach_of_isolation_ends_the_lease_in_quarantine() -> None:
    """The task hears that its lease is over and the machine gone; the machine stays until an operator decides."""
    machine = lease(ready())
    machine.attest(ENDPOINT, NOW)
    lease_id, epoch = machine.lease_id, machine.epoch
    machine.collect_events()
    unit = Unit(service="machines", at=NOW, uuid=uuid4, announce=announce)
    app.breach(unit, machine, "a packet left")
    assert (machine.state, machine.epoch, machine.lease_id) == ("quarantined", epoch + 1, None)
    assert not machine.cures_itself
    ended = machine.ended(lease_id or "")
    assert ended is not None
    assert ended.ending == "isolation_breached"
    assert [row.routing_key for row in unit.outbox] == [
        "machines.machine.lease-expired.v1",
        "machines.machine.quarantined.v1",
    ]


def test_a_machine_to_be_drained_serves_its_lease_and_goes_to_maintenance_when_clean() -> None:
    """The task that used it hears that it is clean; nobody leases it before the operator returns it."""
    machine = lease(ready())
    machine.request_drain("ana", "the host is to be updated", NOW)
    machine.attest(ENDPOINT, NOW)
    machine.release(machine.lease_id or "", NOW)
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW)
    with pytest.raises(NotPossible, match="maintenance"):
        lease(machine, "ope_2")
    machine.return_to_pool("ana", "it was updated", NOW)
    assert machine.state == "cleaning"
    happened = [(type(event).__name__, getattr(event, "by", "")) for event in machine.pending_events]
    assert [one for one in happened if one[1]] == [
        ("DrainRequested", "ana"),
        ("MaintenanceStarted", "ana"),
        ("Returned", "ana"),
    ]


def test_a_drain_that_is_taken_back_leaves_the_machine_in_the_pool() -> None:
    """As if it had not been asked for."""
    machine = lease(ready())
    machine.request_drain("ana", "x", NOW)
    machine.return_to_pool("ana", "not needed", NOW)
    machine.release(machine.lease_id or "", NOW)
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW)
    assert machine.state == "ready"


def test_an_operator_may_take_a_machine_out_of_a_lease() -> None:
    """The lease ends first, so that its task may be tried elsewhere."""
    machine = lease(ready())
    lease_id = machine.lease_id or ""
    machine.quarantine("it smells", NOW, "operator", "ana")
    ended = machine.ended(lease_id)
    assert ended is not None
    assert (machine.state, ended.ending) == ("quarantined", "withdrawn")


@pytest.mark.promise("B3")
def test_a_new_specification_waits_for_the_lease_and_is_applied_once_the_machine_is_clean() -> None:
    """The task that used the machine is not kept waiting for the rebuild."""
    machine = lease(ready())
    wanted = SPEC.model_copy(update={"memory_mib": 2048})
    machine.want(wanted, "i", NOW)
    machine.release(machine.lease_id or "", NOW)
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW)
    assert (machine.state, machine.spec) == ("cleaning", wanted)
    machine.complete_cleaning(NOW)
    assert machine.state == "provisioning"


def test_a_wish_that_is_taken_back_rebuilds_nothing() -> None:
    """The file was changed and changed again while the machine was leased."""
    machine = lease(ready())
    machine.want(SPEC.model_copy(update={"memory_mib": 2048}), "i", NOW)
    machine.want(SPEC, "i", NOW)
    machine.release(machine.lease_id or "", NOW)
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW)
    assert machine.state == "ready"


@pytest.mark.promise("P6")
def test_the_same_divergence_three_times_is_quarantine() -> None:
    """Not cleaned for ever; another kind, or a lease served in between, counts anew."""
    machine = ready()
    for kind in ("gone", "running", "gone"):
        machine.drift(kind, kind, NOW)
        machine.complete_cleaning(NOW)
        machine.verify_clean({}, NOW)
    machine.drift("gone", "gone", NOW)
    assert (machine.state, machine.quarantine_cause) == ("quarantined", "divergence")


@pytest.mark.promise("P4")
@pytest.mark.parametrize("is_leased", [True, False])
def test_a_record_that_is_behind_the_host_is_lifted_above_it_and_the_machine_cleaned(*, is_leased: bool) -> None:
    """The store was restored from a backup: who owned the machine since then is not known."""
    machine = lease(ready()) if is_leased else ready()
    version = machine.version
    machine.repair_epoch(machine.epoch, NOW)
    assert machine.version == version
    machine.repair_epoch(40, NOW)
    assert (machine.state, machine.epoch, machine.lease_id) == ("cleaning", 41, None)
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW)
    assert lease(machine, "ope_9").epoch == 42


@pytest.mark.promise("P3")
def test_a_lease_is_adopted_three_times_at_most() -> None:
    """Each adoption is a higher term; the guest runs on under the same epoch."""
    machine = lease(ready())
    machine.attest(ENDPOINT, NOW)
    lease_id, epoch = machine.lease_id or "", machine.epoch
    for term in (2, 2, 3, 4):
        machine.adopt(lease_id, term, NOW)
    assert machine.lease is not None
    assert (machine.lease.term, machine.epoch) == (4, epoch)
    with pytest.raises(NotPossible, match="more than 3"):
        machine.adopt(lease_id, 5, NOW)


@pytest.mark.promise("P11")
@pytest.mark.parametrize(
    ("state", "cause"), [("preparing", "not_prepared"), ("draining", "collection_deadline"), ("provisioning", None)]
)
def test_a_state_that_somebody_is_to_lead_out_of_ends_at_its_own_deadline(state: str, cause: str | None) -> None:
    """Early it changes nothing; late the machine is cleaned, whoever is at fault."""
    machine = Machine.register(SPEC, NOW)
    machine.start_provisioning("new", NOW)
    if state != "provisioning":
        machine = lease(ready())
    if state == "draining":
        machine.attest(ENDPOINT, NOW)
        machine.start_draining(machine.lease_id or "", "window", NOW)
    machine.collect_events()
    for at, expected in (
        (NOW + timedelta(seconds=STATE_MAX_S[state] - 1), state),
        (NOW + timedelta(seconds=STATE_MAX_S[state]), "cleaning"),
    ):
        app.hurry(Unit(service="machines", at=at, uuid=uuid4, announce=announce), machine)
        assert machine.state == expected
    assert [one.ending for one in machine.leases] == ([cause] if cause else [])


@pytest.mark.promise("P15")
def test_an_order_that_is_repeated_meets_its_recorded_outcome() -> None:
    """Granted, ended, and clean since: said again under the first ids, and nothing is leased a second time."""
    machine = ready()
    machine.collect_events()
    order = LeaseMachine(
        operation_id="ope_1", task_id=TASK, machine_id="linux-1", host="local", route="none", hold_s=60
    )
    first, again = (Unit(service="machines", at=NOW, uuid=uuid4, announce=announce) for _ in range(2))
    app.lease(first, machine, order)
    machine.attest(ENDPOINT, NOW)
    app.record(first, machine)
    app.release(first, machine, release_of(machine))
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW)
    app.record(first, machine)
    version = machine.version
    app.lease(again, machine, order)
    assert machine.version == version
    said = {row.message_id: row.routing_key for row in first.outbox}
    repeated = {row.message_id: row.routing_key for row in again.outbox}
    assert list(repeated.values()) == ["machines.machine.released.v1", "machines.machine.reverted.v1"]
    released = next(iter(repeated))
    assert said[released] == repeated[released]


@pytest.mark.promise("P9")
def test_what_became_of_an_earlier_lease_is_no_word_about_the_present_one() -> None:
    """The same task has the machine again: an order of its first lease that comes late does not call it clean now."""
    machine = lease(ready())
    order = release_of(machine)
    app.release(Unit(service="machines", at=NOW, uuid=uuid4, announce=announce), machine, order)
    ended_at = machine.epoch
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW)
    lease(machine, "ope_2")
    machine.collect_events()
    late = Unit(service="machines", at=NOW, uuid=uuid4, announce=announce)
    app.release(late, machine, order)
    said = [json.loads(row.body)["data"] for row in late.outbox]
    assert [fact["epoch"] for fact in said] == [ended_at, ended_at]
    assert machine.epoch > ended_at


@pytest.mark.promise("P9", "B2")
def test_nothing_says_that_a_machine_is_clean_of_a_task_before_it_was_verified() -> None:
    """A release that is repeated while the machine is cleaned hears that the lease is over, and no more."""
    machine = lease(ready())
    machine.attest(ENDPOINT, NOW)
    order, unit = release_of(machine), Unit(service="machines", at=NOW, uuid=uuid4, announce=announce)
    machine.release(order.lease_id, NOW)
    machine.collect_events()
    app.release(unit, machine, order)
    machine.complete_cleaning(NOW)
    machine.collect_events()
    app.release(unit, machine, order)
    assert {row.routing_key for row in unit.outbox} == {"machines.machine.released.v1"}
    machine.verify_clean({}, NOW)
    machine.collect_events()
    app.release(unit, machine, order)
    assert unit.outbox[-1].routing_key == "machines.machine.reverted.v1"


def release_of(machine: Machine) -> ReleaseMachine:
    """The order to give its present lease back."""
    lease_id = machine.lease_id or ""
    return ReleaseMachine(task_id=TASK, machine_id="linux-1", host="local", lease_id=lease_id, epoch=machine.epoch)


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
        machine.retire("ana", "replaced", NOW)
    machine.drift("gone", "x", NOW)
    machine.quarantine("x", NOW)
    machine.retire("ana", "replaced", NOW)
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
