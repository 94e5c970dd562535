"""The machine aggregate: who owns it, and whether it is clean."""

import json
from typing import Any
from uuid import uuid4

import pytest
from eventsourcing.persistence import StoredEvent

from contracts.machines import Acceleration
from contracts.scheduler import LeaseMachine
from services.chassis.store import make_mapper
from services.chassis.unit import Unit
from services.machines import app
from services.machines.announcements import announce
from services.machines.domain.lifecycle import KNOWN, NEW_EPOCH, TRANSITIONS
from services.machines.domain.machine import Machine, NotPossible
from services.machines.domain.record import QuarantineCause
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


@pytest.mark.promise("P7")
@pytest.mark.parametrize("cause", ["failures", "divergence"])
def test_an_operator_holds_a_quarantined_machine_that_would_build_itself_again(cause: QuarantineCause) -> None:
    """Neither time nor another image takes its evidence; the history says who held it, and why."""
    machine = built()
    machine.quarantine("never verified clean", NOW, cause)
    epoch = machine.epoch
    machine.quarantine("its disk is wanted", NOW, "operator", "ana")
    held: Any = machine.collect_events()[-1]
    assert (held.by, held.reason, machine.epoch) == ("ana", "its disk is wanted", epoch + 1)
    assert (machine.quarantine_cause, machine.cures_itself) == ("operator", False)
    with pytest.raises(NotPossible, match="an operator decides"):
        machine.start_provisioning("cure", NOW)
    machine.want(SPEC, "another image", NOW)
    assert machine.state == "quarantined"
    with pytest.raises(NotPossible, match="quarantined already"):
        machine.quarantine("again", NOW, "operator", "ben")


@pytest.mark.promise("P22")
def test_an_operators_word_does_not_hide_that_a_guest_got_out() -> None:
    """A breach waits for an operator already, and stays the reason."""
    machine = built()
    machine.breach_isolation("its cable leads elsewhere", NOW)
    with pytest.raises(NotPossible, match="isolation_breached"):
        machine.quarantine("its disk is wanted", NOW, "operator", "ana")
    assert machine.quarantine_reason == "its cable leads elsewhere"


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


@pytest.mark.promise("P4")
@pytest.mark.parametrize("is_leased", [True, False])
def test_a_record_that_is_behind_the_hosts_claims_gets_another_epoch(*, is_leased: bool) -> None:
    """The store forgot who acted in this epoch and cannot say it any more; in the next one nobody acted."""
    machine = lease(ready()) if is_leased else ready()
    before = machine.epoch
    machine.repair_claim(NOW)
    assert (machine.state, machine.epoch, machine.lease_id) == ("cleaning", before + 1, None)


def test_a_retired_machine_is_not_repaired() -> None:
    """Nobody works for it any more."""
    machine = ready()
    machine.request_drain("op", "old", NOW)
    machine.retire("op", "old", NOW)
    version = machine.version
    machine.repair_claim(NOW)
    assert (machine.state, machine.version) == ("retired", version)


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
