"""Which images are there: a machine whose image is not waits, and is told why."""

from collections.abc import Iterable, Mapping

import structlog

from services.machines.domain.spec import MachineSpec
from services.machines.errors import HypervisorRefused, HypervisorUnavailable
from services.machines.ports import Hypervisor

NAMED_MAX = 5
"""So many images are named in a fault; of the rest it says how many they are."""

log = structlog.get_logger()


class Images:
    """Looks for the image of each wanted machine. `missing` says of each that is not there why, by its name."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self.missing: dict[str, str] = {}

    async def look(self, specs: Iterable[MachineSpec]) -> Mapping[str, str]:
        """The identity of each image that is there, by its name. What changed about the others is logged once."""
        found: dict[str, str] = {}
        missing: dict[str, str] = {}
        for image, spec in {spec.image: spec for spec in specs}.items():
            try:
                found[image] = await self._hypervisor.image_identity(spec)
            except HypervisorRefused as error:
                missing[image] = f"{error}; build the image, or name another in the machines file"
            except HypervisorUnavailable as error:
                missing[image] = f"image {image}: {error}"
        for image, reason in missing.items():
            if reason != self.missing.get(image):
                log.warning("image_was_missing", image=image, reason=reason)
        for image in sorted(self.missing.keys() & found.keys()):
            log.info("image_was_found", image=image)
        self.missing = missing
        return found

    @property
    def fault(self) -> str:
        """What is missing, in one line; empty when nothing is."""
        named = [self.missing[image] for image in sorted(self.missing)[:NAMED_MAX]]
        more = len(self.missing) - len(named)
        return "; ".join([*named, *([f"and {more} more images are missing"] if more else [])])
