"""What an operator is to know of a host on which work was given up. Forgotten when the process ends: it fails again."""

from dataclasses import dataclass
from typing import Any

from contracts.submission import Route


@dataclass
class _KeptOut:
    """A machine could not be put on a route for that lease."""

    lease_id: str | None
    is_its_own: bool
    has_another_come: bool = False


class Troubles:
    """At most one trouble for each machine and each route; each ends with the work that then succeeds.

    A route that fails is the host's fault, but for a machine that it fails again after it opened for another one.
    """

    def __init__(self) -> None:
        self._unstopped: dict[str, tuple[int, str]] = {}
        self._routes: dict[Route, str] = {}
        self._kept_out: dict[tuple[str, Route], _KeptOut] = {}

    def stop_given_up(self, machine_id: str, epoch: int, reason: str) -> None:
        """Something of the machine, which is out of the pool, may be there still."""
        self._unstopped[machine_id] = (epoch, reason)

    def stopped(self, machine_id: str) -> None:
        """Nothing of it is."""
        self._unstopped.pop(machine_id, None)

    def unstopped(self, machine_id: str, epoch: int) -> str:
        """Why the machine could not be stopped in that epoch; empty when nothing is known."""
        of, reason = self._unstopped.get(machine_id, (epoch, ""))
        return reason if of == epoch else ""

    def route_failed(self, route: Route, machine_id: str, lease_id: str | None, reason: str) -> None:
        """The host could not put the machine on the route for that lease."""
        self._routes[route] = reason
        last = self._kept_out.get((machine_id, route))
        if last is None or last.lease_id != lease_id:
            is_its_own = last is not None and last.has_another_come
            self._kept_out[machine_id, route] = _KeptOut(lease_id, is_its_own)

    def route_opened(self, route: Route, machine_id: str) -> None:
        """It could."""
        self._routes.pop(route, None)
        self._kept_out.pop((machine_id, route), None)
        for (_, failed), kept in self._kept_out.items():
            kept.has_another_come |= failed == route

    def is_hosts_fault(self, route: Route, machine_id: str) -> bool:
        """Whether the route fails, and nothing says that it is for this machine alone."""
        kept = self._kept_out.get((machine_id, route))
        return route in self._routes if kept is None else not kept.is_its_own

    def condition(self) -> dict[str, Any]:
        """What the service's health shows: machines that were not stopped, routes that could not be opened, and why."""
        return {"unstopped": {name: reason for name, (_, reason) in self._unstopped.items()}, "routes": self._routes}
