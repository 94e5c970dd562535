"""A lease of a machine: one owner, one end, and the same answer to the same order."""

import json
from datetime import timedelta
from uuid import uuid4

import pytest

from contracts.ids import derived
from contracts.scheduler import LeaseMachine, ReleaseMachine
from contracts.submission import Platform
from services.chassis.unit import Unit
from services.machines import app
from services.machines.announcements import announce
from services.machines.domain.machine import FAILURES_MAX, Machine, NotPossible
from services.machines.domain.record import LEASES_KEPT_MAX
from services.machines.policy import LEASE_MAX_S, STATE_MAX_S
from tests.unit.machines.fleet import ENDPOINT, NOW, SPEC, TASK, lease, ready
from tests.unit.machines.fleet import unit as empty_unit


@pytest.mark.promise("C3")
@pytest.mark.parametrize("platform", ["linux", "windows"])
def test_what_is_said_of_a_lease_is_what_was_specified_and_proven(platform: Platform) -> None:
    """The platform is the specification's, the endpoint the one that was attested, whole and unchanged."""
    machine = ready(SPEC.model_copy(update={"platform": platform}))
    lease(machine)
    proven = ENDPOINT.model_copy(update={"scheme": "vsock", "host": "7", "port": 1234})
    machine.attest(proven, NOW)
    unit = empty_unit()
    app.record(unit, machine)
    [said] = [row for row in unit.outbox if ".leased." in row.routing_key]
    fact = json.loads(said.body)["data"]
    assert fact["platform"] == platform
    assert fact["endpoint"] == proven.model_dump(mode="json")
    assert machine.summary().platform == platform


@pytest.mark.promise("P1")
def test_a_leased_machine_is_refused_to_another_task() -> None:
    """One owner."""
    machine = lease(ready())
    with pytest.raises(NotPossible, match="preparing"):
        machine.lease_to("tsk_" + "2" * 32, operation_id="ope_2", hold_s=60, at=NOW)


@pytest.mark.promise("F6", "P22", "P27")
@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"route": "simulated"}, "machine linux-1 does not offer the route simulated"),
        ({"untrusted": True}, "machine linux-1 accepts no samples that are marked untrusted"),
        ({"machine_id": "linux-9"}, "no machine linux-9 on this host"),
    ],
)
def test_what_a_machine_is_not_for_is_refused_by_its_host(asked: dict[str, object], reason: str) -> None:
    """Whatever was planned: with the reason, and the machine stays nobody's. The control is granted."""
    machine = ready()
    machine.collect_events()
    refused, granted, free_at = empty_unit(), empty_unit(), machine.epoch
    order = order_of(**asked)
    app.lease(refused, machine if order.machine_id == machine.machine_id else None, order)
    [said] = refused.outbox
    assert said.routing_key == "machines.machine.lease-refused.v1"
    assert json.loads(said.body)["data"]["reason"] == reason
    assert machine.epoch == free_at
    app.lease(granted, machine, order_of())
    assert (machine.state, machine.epoch) == ("preparing", free_at + 1)


@pytest.mark.promise("P11")
@pytest.mark.parametrize(
    ("asked_s", "granted_s"), [(60, 60), (LEASE_MAX_S, LEASE_MAX_S), (LEASE_MAX_S + 1, LEASE_MAX_S)]
)
def test_no_lease_is_granted_for_longer_than_the_host_allows(asked_s: int, granted_s: int) -> None:
    """However long its task may take."""
    machine = ready()
    app.lease(empty_unit(), machine, order_of(hold_s=asked_s))
    assert machine.hard_deadline_at == NOW + timedelta(seconds=granted_s)


def order_of(**changed: object) -> LeaseMachine:
    """An order to lease the machine, changed so."""
    usual = {"operation_id": "ope_1", "task_id": TASK, "machine_id": "linux-1", "host": "local", "route": "none"}
    return LeaseMachine.model_validate({**usual, "hold_s": 60, **changed})


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


def test_an_operator_may_take_a_machine_out_of_a_lease() -> None:
    """The lease ends first, so that its task may be tried elsewhere."""
    machine = lease(ready())
    lease_id = machine.lease_id or ""
    machine.quarantine("it smells", NOW, "operator", "ana")
    ended = machine.ended(lease_id)
    assert ended is not None
    assert (machine.state, ended.ending) == ("quarantined", "withdrawn")


@pytest.mark.promise("P2", "G4")
def test_word_of_an_earlier_lease_or_driver_changes_nothing() -> None:
    """Neither a timer of the lease before nor a replaced driver ends or drains what is there; who may, does."""
    machine = lease(ready())
    stale = machine.lease_id or ""
    machine.release(stale, NOW)
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW)
    lease(machine, "ope_2")
    machine.attest(ENDPOINT, NOW)
    machine.adopt(machine.lease_id or "", 2, NOW)
    current, version = machine.lease, machine.version
    assert current is not None
    for lease_id in (stale, "lea_" + "9" * 32):
        app.expire(empty_unit(), machine, lease_id, "deadline", "x")
        app.adopt(empty_unit(), machine, lease_id, 3)
        app.drain(empty_unit(), machine, current.model_copy(update={"lease_id": lease_id}), "x")
    app.drain(empty_unit(), machine, current.model_copy(update={"term": 1}), "x")
    states = [(machine.state, machine.version)]
    app.drain(empty_unit(), machine, current, "the window")
    states.append((machine.state, machine.version))
    app.expire(empty_unit(), machine, current.lease_id, "deadline", "x")
    states.append((machine.state, machine.version))
    assert states == [("active", version), ("draining", version + 1), ("cleaning", version + 2)]


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


def not_prepared(machine: Machine, count: int = 1, *, is_late: bool = False, is_hosts: bool = False) -> None:
    """So many leases in a row had no guest; whatever may be is cleaned and verified after each."""
    for _ in range(count):
        lease(machine, f"ope_{machine.version}")
        if is_late:
            at = NOW + timedelta(seconds=STATE_MAX_S["preparing"])
            app.hurry(empty_unit(at), machine, is_hosts_fault=is_hosts)
        else:
            machine.expire_lease(machine.lease_id or "", "not_prepared", "no INetSim", NOW, is_hosts_fault=is_hosts)
        if machine.state == "cleaning":
            machine.complete_cleaning(NOW)
            machine.verify_clean({}, NOW, ENDPOINT)


def served(machine: Machine) -> None:
    """A lease had a guest."""
    lease(machine, f"ope_{machine.version}").attest(ENDPOINT, NOW)
    machine.release(machine.lease_id or "", NOW)
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW, ENDPOINT)


@pytest.mark.promise("B3", "D6")
@pytest.mark.parametrize("is_late", [False, True], ids=["failed", "late"])
def test_a_machine_that_cannot_be_prepared_three_times_in_a_row_is_quarantined(*, is_late: bool) -> None:
    """However clean it is between; its reason is told, and its last task hears of the end of its lease."""
    machine = ready()
    not_prepared(machine, 2, is_late=is_late)
    served(machine)
    not_prepared(machine, 2, is_late=is_late)
    assert machine.state == "ready"
    not_prepared(machine, is_late=is_late)
    last = machine.leases[-1]
    assert (last.ending, machine.quarantined_version) == ("not_prepared", last.ended_version + 1)
    assert (machine.state, machine.quarantine_cause, machine.lease_id) == ("quarantined", "failures", None)
    assert machine.quarantine_reason.startswith("could not be prepared for 3 leases in a row: ")


@pytest.mark.parametrize("is_late", [False, True], ids=["failed", "late"])
def test_leases_that_the_host_could_not_prepare_count_neither_for_nor_against_the_machine(*, is_late: bool) -> None:
    """However many there are, it stays; those that it failed itself before and after are still in a row."""
    machine = ready()
    not_prepared(machine, 2)
    not_prepared(machine, 2 * FAILURES_MAX, is_late=is_late, is_hosts=True)
    assert (machine.state, machine.unprepared) == ("ready", 2)
    not_prepared(machine)
    assert machine.state == "quarantined"


def test_a_machine_that_is_never_prepared_cures_itself_twice_and_waits_for_an_operator_then() -> None:
    """Being verified clean earns no trust without a guest; an operator's word or a guest does."""
    machine = ready()
    not_prepared(machine, 3)
    for left in (1, 0):
        assert machine.cures_itself
        machine.start_provisioning("cure", NOW)
        machine.complete_provisioning(acceleration="tcg", image_identity="i", evidence={}, at=NOW)
        machine.verify_clean({}, NOW, ENDPOINT)
        not_prepared(machine)
        assert (machine.state, machine.cures_itself) == ("quarantined", left > 0)
    machine.return_to_pool("ana", "mended", NOW)
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW, ENDPOINT)
    not_prepared(machine, 2)
    assert machine.state == "ready"
    served(machine)
    not_prepared(machine, 2)
    assert machine.state == "ready"


@pytest.mark.promise("P1", "P15")
def test_an_order_whose_lease_is_forgotten_grants_a_lease_of_its_own_and_a_forgotten_release_ends_none() -> None:
    """So many ended leases are remembered and no more; whoever asks for one of the forgotten is a new owner."""
    machine = ready()
    for number in range(LEASES_KEPT_MAX + 1):
        lease(machine, f"ope_{number}").attest(ENDPOINT, NOW)
        machine.release(machine.lease_id or "", NOW)
        machine.complete_cleaning(NOW)
        machine.verify_clean({}, NOW, ENDPOINT)
    assert len(machine.leases) == LEASES_KEPT_MAX
    assert (machine.lease_of("ope_0"), machine.leases[0]) == (None, machine.lease_of("ope_1"))
    version = machine.version
    lease(machine, "ope_1")
    assert (machine.state, machine.version) == ("ready", version)
    forgotten = derived("lea", "linux-1", machine.leases[0].epoch - 1)
    lease(machine, "ope_0")
    assert machine.current is not None
    assert machine.current.lease_id not in {one.lease_id for one in machine.leases}
    unit, order = empty_unit(NOW), release_of(machine)
    app.release(unit, machine, order.model_copy(update={"lease_id": forgotten}))
    assert (unit.events, unit.outbox) == ([], [])
    assert machine.state == "preparing"


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
