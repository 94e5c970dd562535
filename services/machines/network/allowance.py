"""Which machine may be on which route: by the operator's own file, whatever the machines service asks for.

The hypervisor's user can ask for anything once a guest broke out to it, but the file is root's to write.
"""

from pathlib import Path

import structlog

from contracts.submission import Route
from services.chassis.settings import SettingsRefused
from services.machines.settings import load_machines

log = structlog.get_logger()


class Allowance:
    """The routes of each machine, read from the file each time. The last good one counts while it is broken."""

    def __init__(self, machines_file: Path) -> None:
        self._file = machines_file
        self._routes: dict[str, tuple[Route, ...]] = {}

    def allows(self, machine_id: str, route: Route) -> bool:
        """Whether the machine may be on it; on none any may."""
        if route == "none":
            return True
        try:
            self._routes = {spec.machine_id: spec.routes for spec in load_machines(self._file, "")}
        except SettingsRefused as refusal:
            log.warning("machines_file_was_refused", reason=str(refusal), machines_kept=len(self._routes))
        return route in self._routes.get(machine_id, ())
