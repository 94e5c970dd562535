"""A guest that got through its walls: whose breach it is, and that it is never built away."""

import pytest

from services.chassis.unit import Unit
from services.machines import app
from services.machines.domain.lifecycle import State
from services.machines.domain.machine import Machine
from services.machines.ports import Breach
from tests.unit.machines.fleet import ENDPOINT, IN_STATE, NOW, active, cleaning, lease, ready, unit

EXPIRED, QUARANTINED = "machines.machine.lease-expired.v1", "machines.machine.quarantined.v1"


def after(machine: Machine, breach: Breach) -> Unit:
    """What the machine said when the breach was recorded."""
    machine.collect_events()
    made = unit()
    app.breach(made, machine, breach)
    return made


def of_its_last_lease(machine: Machine) -> Breach:
    """Its last guest got out."""
    last = machine.leases[-1]
    return Breach(machine.machine_id, last.epoch, "rules: too much", last.lease_id)


def verified(machine: Machine) -> Machine:
    """The machine, cleaned and clean."""
    machine.complete_cleaning(NOW)
    machine.verify_clean({}, NOW)
    return machine


@pytest.mark.promise("P22", "P1")
def test_a_breach_of_isolation_ends_the_lease_in_quarantine() -> None:
    """The task hears that its lease is over and the machine gone; the machine stays until an operator decides."""
    machine = active()
    lease_id, epoch = machine.lease_id, machine.epoch
    said = after(machine, Breach(machine.machine_id, epoch, "a packet left", lease_id))
    assert (machine.state, machine.epoch, machine.lease_id) == ("quarantined", epoch + 1, None)
    assert not machine.cures_itself
    ended = machine.ended(lease_id or "")
    assert ended is not None
    assert ended.ending == "isolation_breached"
    assert [row.routing_key for row in said.outbox] == [EXPIRED, QUARANTINED]


@pytest.mark.promise("P22", "P1")
def test_a_breach_before_the_route_was_open_is_one_of_the_lease() -> None:
    """The network is still of the incarnation's epoch then, and of no lease."""
    machine = lease(ready())
    after(machine, Breach(machine.machine_id, machine.incarnation_epoch, "a packet left"))
    assert (machine.state, machine.quarantine_cause) == ("quarantined", "isolation_breached")


@pytest.mark.promise("P22")
@pytest.mark.parametrize("state", ["cleaning", "verifying", "provisioning"])
def test_a_breach_that_is_seen_after_the_lease_is_quarantine_until_the_machine_is_verified(state: State) -> None:
    """It is not cleaned or built away; the task, which still waits for its machine, hears what became of it."""
    machine = cleaning()
    if state == "verifying":
        machine.complete_cleaning(NOW)
    elif state == "provisioning":
        machine.needs_rebuild = True
        machine.complete_cleaning(NOW)
    assert machine.state == state
    epoch = machine.epoch
    said = after(machine, of_its_last_lease(machine))
    assert (machine.state, machine.epoch, machine.cures_itself) == ("quarantined", epoch + 1, False)
    assert [row.routing_key for row in said.outbox] == [QUARANTINED]


@pytest.mark.promise("P22")
def test_a_quarantine_that_would_end_by_itself_does_not_after_a_breach() -> None:
    """A guest that could not be ended and got out is no matter for another build."""
    machine = cleaning()
    for _ in range(3):
        machine.fail_cleaning("a process does not end", NOW)
    assert machine.cures_itself
    after(machine, of_its_last_lease(machine))
    assert (machine.state, machine.cures_itself) == ("quarantined", False)
    assert machine.quarantine_reason == "rules: too much"


@pytest.mark.promise("P22")
def test_a_breach_of_an_incarnation_that_was_cleaned_away_has_no_effect() -> None:
    """It comes late: the machine was verified since, is the next task's, or that one's already used one."""
    for again in (verified, lambda machine: lease(verified(machine), "ope_2")):
        machine = again(cleaning())
        assert not after(machine, of_its_last_lease(machine)).events
    machine = lease(verified(cleaning()), "ope_2")
    first = Breach(machine.machine_id, machine.leases[0].epoch, "late", machine.leases[0].lease_id)
    machine.attest(ENDPOINT, NOW)
    machine.release(machine.lease_id or "", NOW)
    assert not after(machine, first).events
    assert machine.state == "cleaning"


@pytest.mark.promise("P22", "P6")
def test_nobodys_network_that_changed_is_a_drift_of_what_stands_ready() -> None:
    """There was no guest to get out."""
    machine = ready()
    after(machine, Breach(machine.machine_id, machine.epoch, "rules: missing"))
    assert (machine.state, machine.drifts) == ("cleaning", {"network": 1})
    assert not after(machine, Breach(machine.machine_id, machine.epoch - 1, "rules: missing")).events


@pytest.mark.promise("P22", "P4")
def test_a_breach_of_a_lease_that_the_record_does_not_know_is_one() -> None:
    """The store was restored from an older backup: what the host has is newer."""
    machine = ready()
    after(machine, Breach(machine.machine_id, machine.epoch + 7, "rules: too much", "lea_" + "9" * 32))
    assert (machine.state, machine.quarantine_cause) == ("quarantined", "isolation_breached")


@pytest.mark.promise("P22")
@pytest.mark.parametrize("state", ["registered", "maintenance", "retired"])
def test_a_breach_is_no_news_of_a_machine_that_is_nobodys_to_judge(state: State) -> None:
    """Nothing of ours runs there."""
    machine = IN_STATE[state]()
    assert not after(machine, Breach(machine.machine_id, machine.epoch, "x", "lea_" + "9" * 32)).events
