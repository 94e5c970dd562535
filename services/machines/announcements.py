"""What of a machine's history is public, and in which words. Pure."""

from collections.abc import Callable, Iterable
from typing import Any

from contracts import machines as public
from contracts.envelope import Message
from services.machines.domain.machine import Machine

Words = Callable[[Any, Machine, dict[str, Any]], Iterable[Message]]


def _registered(_event: Any, machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineRegistered(**of, machine=machine.summary(), state=machine.state)


def _provisioned(event: Machine.Provisioned, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineProvisioned(**of, acceleration=event.acceleration)


def _attested(_event: Any, machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    if machine.lease and machine.task_id and machine.endpoint and machine.hard_deadline_at:
        yield public.MachineLeased(
            **of,
            task_id=machine.task_id,
            lease=machine.lease,
            endpoint=machine.endpoint,
            platform=machine.spec.platform,
            acceleration=machine.acceleration,
            hard_deadline_at=machine.hard_deadline_at,
        )


def _released(event: Machine.Released, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineReleased(**of, task_id=event.task_id, lease_id=event.lease_id)
    yield public.MachineReverting(**of, task_id=event.task_id, reason="released")


def _expired(event: Machine.LeaseExpired, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.LeaseExpired(
        **of, task_id=event.task_id, lease_id=event.lease_id, cause=event.cause, reason=event.reason
    )
    yield public.MachineReverting(**of, task_id=event.task_id, reason=event.reason)


def _drifted(event: Machine.DriftSeen, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineDrifted(**of, reason=event.reason)
    yield public.MachineReverting(**of, reason=event.reason)


def _verified(event: Machine.CleanVerified, machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineReverted(**of, task_id=event.task_id, machine=machine.summary(), evidence=dict(event.evidence))


def _failed(
    event: Machine.VerificationFailed | Machine.CleaningFailed, machine: Machine, of: dict[str, Any]
) -> Iterable[Message]:
    yield public.RevertFailed(**of, task_id=machine.last_task_id, reason=event.reason, attempt=machine.failures)


def _quarantined(event: Machine.Quarantined, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineQuarantined(**of, task_id=event.task_id, reason=event.reason)


def _retired(event: Machine.Retired, _machine: Machine, of: dict[str, Any]) -> Iterable[Message]:
    yield public.MachineRetired(**of, reason=event.reason)


WORDS: dict[type[Any], Words] = {
    Machine.Registered: _registered,
    Machine.SpecChanged: _registered,
    Machine.Provisioned: _provisioned,
    Machine.GuestAttested: _attested,
    Machine.Released: _released,
    Machine.LeaseExpired: _expired,
    Machine.DriftSeen: _drifted,
    Machine.CleanVerified: _verified,
    Machine.VerificationFailed: _failed,
    Machine.CleaningFailed: _failed,
    Machine.Quarantined: _quarantined,
    Machine.Retired: _retired,
}


def announce(event: Any, machine: Machine) -> Iterable[Message]:
    """The facts that the event is."""
    words = WORDS.get(type(event))
    return words(event, machine, {"machine_id": machine.machine_id, "epoch": machine.epoch}) if words else ()
