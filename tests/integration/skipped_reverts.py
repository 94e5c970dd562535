"""Mutants of the hypervisor that do not revert what they should: the evidence of clean has to catch each."""

import shutil
from pathlib import Path

from services.machines.adapters.libvirt import LibvirtHypervisor
from services.machines.adapters.machine_files import MachineFiles
from services.machines.domain.fence import Claim
from services.machines.domain.spec import MachineSpec
from services.machines.ports import Incarnation
from tests.integration.hypervisor_harness import Laboratory


class SkipsRevert(LibvirtHypervisor):
    """Gives out the incarnation that it gave out before."""

    def __init__(self, lab: Laboratory, before: Incarnation) -> None:
        super().__init__(lab.settings)
        self._before = before

    async def restore(
        self,
        spec: MachineSpec,  # noqa: ARG002 - the port's shape
        *,
        epoch: int,  # noqa: ARG002
        claim: Claim | None = None,  # noqa: ARG002
    ) -> Incarnation:
        """The same process on the same overlay."""
        return self._before


class KeepsOverlay(LibvirtHypervisor):
    """Restores the memory, on the overlay of an earlier incarnation."""

    def __init__(self, lab: Laboratory, old: Path) -> None:
        super().__init__(lab.settings)
        self._machines_dir, self._old = lab.settings.machines_dir, old

    def _files(self, machine_id: str) -> MachineFiles:
        return _OldOverlay(self._machines_dir, machine_id, self._old)


class _OldOverlay(MachineFiles):
    def __init__(self, machines_dir: Path, machine_id: str, old: Path) -> None:
        super().__init__(machines_dir, machine_id)
        self._old = old

    def begin(self, directory: Path, *, backing: Path) -> Path:
        overlay = super().begin(directory, backing=backing)
        shutil.copyfile(self._old, overlay)
        return overlay
