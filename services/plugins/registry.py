"""The catalogue as it is at this moment, and every version that a plan pinned before it was.

Whoever needs a plugin asks here each time, and keeps no catalogue.
"""

from contracts.planning import PlannedRun
from services.plugins.domain.catalogue import Catalogue, Plugin
from services.plugins.ports_catalogue import Versions


class Registry:
    """Holds one catalogue, which is replaced as a whole: nobody ever sees half of a change."""

    def __init__(self, catalogue: Catalogue, versions: Versions | None = None) -> None:
        self._catalogue = catalogue
        self._versions = versions

    @property
    def catalogue(self) -> Catalogue:
        """What may be planned now."""
        return self._catalogue

    def plugins(self) -> tuple[Plugin, ...]:
        """Those that may be planned at the moment of the call."""
        return tuple(self._catalogue.plugins.values())

    def replace(self, catalogue: Catalogue) -> None:
        """That catalogue is the one from here on."""
        self._catalogue = catalogue

    def pinned(self, run: PlannedRun) -> Plugin | None:
        """Exactly the plugin that the plan pinned, whatever the catalogue has become since."""
        current = self._catalogue.find(run.plugin, run.version, run.digest)
        if current is not None or self._versions is None:
            return current
        return self._versions.find(run.plugin, run.version, run.digest)
