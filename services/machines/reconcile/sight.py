"""Looking at the host, and how far a look is to be believed."""

import time
from collections.abc import Mapping

import structlog

from services.machines.errors import NetworkUnavailable
from services.machines.ports import DomainSeen, GuestNetwork, Hypervisor

EMPTY_CONFIRM_S = 2.0
"""A listing without a single domain is believed when another one, so much earlier, was empty too.

A hypervisor that has just started, or was just reached again, may not have found its domains yet.
"""


log = structlog.get_logger()


class Sight:
    """Observes through the ports. Believes no listing that is suddenly empty."""

    def __init__(self, hypervisor: Hypervisor, network: GuestNetwork) -> None:
        self._hypervisor = hypervisor
        self._network = network
        self._empty_since: float | None = None
        self.network_fault = ""
        """Why the network helper was not seen at the last look; empty when it was."""

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

    async def fences(self) -> Mapping[str, int]:
        """The highest epoch that anybody on this host acted for, by machine. Raises HypervisorUnavailable.

        Whoever keeps a fence of its own refuses by it: the highest of all is what a record must not be below. A
        network helper that is away refuses nothing either.
        """
        fences = dict(await self._hypervisor.fences())
        try:
            ours = await self._network.fences()
        except NetworkUnavailable as error:
            log.info("fences_of_networks_were_not_seen", reason=str(error))
            self.network_fault = f"the networks were not seen: {error}"
            return fences
        self.network_fault = ""
        return {name: max(fences.get(name, -1), ours.get(name, -1)) for name in fences.keys() | ours.keys()}


def by_machine(domains: list[DomainSeen] | None) -> Mapping[str, DomainSeen] | None:
    """The domains under our prefix, by the machine that they name."""
    return None if domains is None else {domain.machine_id: domain for domain in domains if domain.machine_id}
