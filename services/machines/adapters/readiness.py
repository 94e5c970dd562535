"""An incarnation stands ready, is looked at while it does, and is let go: each under the machine's lock and fence.

Between two looks there is time to change something, so letting go looks again.
"""

from pathlib import Path
from typing import Any

import structlog

from services.machines.adapters import libvirt_domains as domains
from services.machines.adapters import standing
from services.machines.adapters.machine_files import MachineFiles
from services.machines.errors import HypervisorRefused, HypervisorUnavailable
from services.machines.ports import Departure

NAMES_LOGGED_MAX = 20

log = structlog.get_logger()


def stand(connection: Any, files: MachineFiles) -> None:
    """The processors stand still, and how everything stands then is recorded. Raises HypervisorRefused."""
    machine_id = files.directory.name
    domains.suspend(connection, machine_id)
    domain, lives = domains.present(connection, machine_id), files.lives()
    if len(lives) != 1:
        raise HypervisorRefused(f"{machine_id} has {len(lives)} incarnations")
    try:
        standing.record(domain, files.directory, lives[0]).keep(lives[0])
    except ValueError as error:
        raise HypervisorRefused(f"{machine_id} cannot stand ready: {error}") from error


def departures(connection: Any, files: MachineFiles, epoch: int) -> list[Departure]:
    """In what the incarnation of that epoch differs from how it stood; what any other left is removed."""
    life = files.life_of(epoch)
    faults = _differences(connection, files, life, is_hurried=False)
    try:
        removed = files.discard_lives(but=life)
    except HypervisorUnavailable as fault:
        return [*faults, Departure("files", str(fault))]
    if removed:
        log.warning("stray_files_were_removed", machine=files.directory.name, names=removed[:NAMES_LOGGED_MAX])
    return faults


def resume(connection: Any, files: MachineFiles, grant: str) -> None:
    """The processors run, for that grant and no other. Raises HypervisorRefused when anything differs."""
    machine_id = files.directory.name
    stood_in = [(life, stood) for life in files.lives() if (stood := standing.read(life))]
    if len(stood_in) != 1:
        raise HypervisorRefused(f"{machine_id} does not stand ready")
    life, stood = stood_in[0]
    if stood.resumed_for not in (None, grant):
        raise HypervisorRefused(f"{machine_id} ran before, for {stood.resumed_for}: nobody else may have it")
    if stood.resumed_for is None:  # else this is a repetition: it runs since
        if faults := _differences(connection, files, life, is_hurried=True):
            said = "; ".join(one.reason for one in faults)
            raise HypervisorRefused(f"{machine_id} is not what was verified: {said}")
        stood.model_copy(update={"resumed_for": grant}).keep(life)
    domains.resume(connection, machine_id)


def _differences(connection: Any, files: MachineFiles, life: Path, *, is_hurried: bool) -> list[Departure]:
    domain = domains.found(connection, files.directory.name)
    faults = [Departure("domain", "its domain is gone")] if domain is None else standing.departures(domain, life)
    try:
        files.snapshot(is_hurried=is_hurried)
    except HypervisorRefused as fault:
        faults.append(Departure("snapshot", str(fault)))
    return faults
