"""Looking at the host, and how far a look is to be believed."""

import time
from collections.abc import Mapping

from services.machines.ports import DomainSeen, Hypervisor

EMPTY_CONFIRM_S = 2.0
"""A listing without a single domain is believed when another one, so much earlier, was empty too.

A hypervisor that has just started, or was just reached again, may not have found its domains yet.
"""


class Sight:
    """Observes through the port. Believes no listing that is suddenly empty."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._empty_since: float | None = None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the last listing was empty and is still to be confirmed."""
        return self._empty_since is not None and time.monotonic() - self._empty_since < EMPTY_CONFIRM_S

    async def domains(self) -> list[DomainSeen] | None:
        """Every domain, or None when there seem to be none and nobody said so before. Raises HypervisorUnavailable."""
        try:
            listed = await self._hypervisor.observe()
        except BaseException:
            self._empty_since = None
            raise
        if listed:
            self._empty_since = None
            return listed
        if self._empty_since is None:
            self._empty_since = time.monotonic()
        return None if self.is_in_doubt else listed


def by_machine(domains: list[DomainSeen] | None) -> Mapping[str, DomainSeen] | None:
    """The domains under our prefix, by the machine that they name."""
    return None if domains is None else {domain.machine_id: domain for domain in domains if domain.machine_id}
