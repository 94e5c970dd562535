"""The catalogue as it is at this moment. Whoever needs a plugin asks here each time, and keeps no catalogue."""

from contracts.planning import PlannedRun
from services.plugins.domain.catalogue import Catalogue, Plugin


class Registry:
    """Holds one catalogue, which is replaced as a whole: nobody ever sees half of a change."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    @property
    def catalogue(self) -> Catalogue:
        """What may be planned now."""
        return self._catalogue

    def replace(self, catalogue: Catalogue) -> None:
        """That catalogue is the one from here on."""
        self._catalogue = catalogue

    def pinned(self, run: PlannedRun) -> Plugin | None:
        """Exactly the plugin that the plan pinned, whatever the catalogue has become since."""
        return self._catalogue.find(run.plugin, run.version)
