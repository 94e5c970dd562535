"""Guest plugins: observers inside the machine, driven through the agent for one task and then gone.

initialize -> arm -> (the sample runs) -> flush -> shutdown. Those in `PLUGINS` are part of the agent: one that does not
become ready refuses the task. All others come as bundles (`bundles`) and run in processes of their own (`process`): one
that does not become ready has an outcome, and the task goes on. Neither is ever left out in silence.
"""

from collections.abc import Callable
from typing import Protocol

from guest.journal import Journal
from guest.platforms import Platform
from guest.plugins.syscalls import SyscallTracer


class GuestPlugin(Protocol):
    """One observer."""

    def initialize(self, config: dict[str, object]) -> None:
        """Ready to arm. Raises PluginRefused."""

    def arm(self, journal: Journal) -> None:
        """Observes from now on, into the journal."""

    def shutdown(self) -> None:
        """Holds nothing any more."""


PLUGINS: dict[str, Callable[[Platform], SyscallTracer]] = {SyscallTracer.NAME: SyscallTracer}
VERSIONS: dict[str, str] = {SyscallTracer.NAME: SyscallTracer.VERSION}
