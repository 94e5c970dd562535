"""What of a machine's history is public, and in which words. Pure."""

from collections.abc import Callable, Iterable
from typing import Any

from contracts import machines as public
from contracts.envelope import Message
from services.machines.app import repeat
from services.machines.domain import events
from services.machines.domain.machine import Machine

Words = Callable[[Any, Machine, dict[str, Any]], Iterable[Message]]


def _registered(_event: Any, machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineRegistered(**of, machine=machine.summary(), state=machine.state)


def _provisioned(event: events.Provisioned, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineProvisioned(**of, acceleration=event.acceleration)


def _attested(_event: Any, machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    if (details := repeat.granted(machine)) is not None:
        yield public.MachineLeased(**of, **details)


def _released(event: events.Released, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineReleased(**of, task_id=event.task_id, lease_id=event.lease_id)
    yield public.MachineReverting(**of, task_id=event.task_id, reason="released")


def _expired(event: events.LeaseExpired, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.LeaseExpired(
        **of, task_id=event.task_id, lease_id=event.lease_id, cause=event.cause, reason=event.reason
    )
    yield public.MachineReverting(**of, task_id=event.task_id, reason=event.reason)


def _drifted(event: events.DriftSeen, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineDrifted(**of, reason=event.reason)
    yield public.MachineReverting(**of, reason=event.reason)


def _verified(event: events.CleanVerified, machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineReverted(**of, task_id=event.task_id, machine=machine.summary(), evidence=dict(event.evidence))


def _unverified(event: events.VerificationFailed, machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.RevertFailed(**of, task_id=machine.last_task_id, reason=event.reason, attempt=machine.failures)


def _uncleaned(event: events.CleaningFailed, machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    attempt = machine.cleaning_failures
    yield public.RevertFailed(**of, task_id=machine.last_task_id, reason=event.reason, attempt=attempt)


def _breached(event: events.IsolationBreached, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    if event.task_id and event.lease_id:
        yield public.LeaseExpired(
            **of, task_id=event.task_id, lease_id=event.lease_id, cause="isolation_breached", reason=event.reason
        )
    yield public.MachineQuarantined(**of, task_id=event.task_id, reason=event.reason)


def _repaired(event: events.EpochRepaired, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    if event.task_id and event.lease_id:
        yield public.LeaseExpired(
            **of, task_id=event.task_id, lease_id=event.lease_id, cause="lease_lost", reason=event.reason
        )
    yield public.MachineReverting(**of, task_id=event.task_id, reason=event.reason)


def _aged(event: events.EvidenceExpired, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineReverting(**of, reason=event.reason)


def _withdrawn(event: events.MaintenanceStarted, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineWithdrawn(**of, by=event.by, reason=event.reason)


def _restored(event: events.Returned, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineRestored(**of, by=event.by, reason=event.reason)


def _quarantined(event: events.Quarantined, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineQuarantined(**of, task_id=event.task_id, reason=event.reason)


def _retired(event: events.Retired, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineRetired(**of, reason=event.reason)


WORDS: dict[type[Any], Words] = {
    Machine.Registered: _registered,
    Machine.SpecChanged: _registered,
    Machine.Provisioned: _provisioned,
    Machine.GuestAttested: _attested,
    Machine.Released: _released,
    Machine.LeaseExpired: _expired,
    Machine.IsolationBreached: _breached,
    Machine.EpochRepaired: _repaired,
    Machine.DriftSeen: _drifted,
    Machine.EvidenceExpired: _aged,
    Machine.MaintenanceStarted: _withdrawn,
    Machine.Returned: _restored,
    Machine.CleanVerified: _verified,
    Machine.VerificationFailed: _unverified,
    Machine.CleaningFailed: _uncleaned,
    Machine.Quarantined: _quarantined,
    Machine.Retired: _retired,
}


def announce(event: Any, machine: Machine) -> Iterable[Message]:
    """The facts that the event is."""
    words = WORDS.get(type(event))
    return words(event, machine, {"machine_id": machine.machine_id, "epoch": machine.epoch}) if words else ()
