"""The full desired specification of a machine: part of its record, so that no file is needed to rebuild it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import MachineId
from contracts.machines import Acceleration, MachineSummary
from contracts.submission import Platform, Route


class MachineSpec(BaseModel):
    """What the machine is to be: hardware as the profile says, the image it starts from, the routes it may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine_id: MachineId
    host: str
    profile: str
    platform: Platform
    arch: Literal["x86_64"] = "x86_64"
    image: str = Field(description="name of a built image, such as `linux`")
    memory_mib: int = Field(default=1024, ge=256, le=65536)
    vcpus: int = Field(default=1, ge=1, le=16)
    disk_bus: Literal["virtio", "sata"] = "virtio"
    nic_model: Literal["virtio", "e1000e", "rtl8139"] = "virtio"
    firmware: Literal["bios", "efi"] = "bios"
    acceleration: Literal["auto", "kvm", "tcg"] = "auto"
    routes: tuple[Route, ...] = ("none",)
    tags: tuple[str, ...] = ()
    has_guest_access: bool = True
    accepts_untrusted: bool = Field(
        default=False,
        description="run samples that are marked untrusted even without KVM; QEMU itself promises no isolation then",
    )

    @property
    def has_analysis_card(self) -> bool:
        """Whether the machine has a card for its samples: one that may only have the route none has no use for it."""
        return self.routes != ("none",)

    def narrowed(self, offered: tuple[Route, ...]) -> "MachineSpec":
        """The same machine with those of its routes that are offered, and always the route none."""
        kept = tuple(route for route in self.routes if route in offered or route == "none")
        return self.model_copy(update={"routes": kept or ("none",)})

    def summary(self, acceleration: Acceleration) -> MachineSummary:
        """What other services may know of it."""
        return MachineSummary(
            machine_id=self.machine_id,
            host=self.host,
            profile=self.profile,
            platform=self.platform,
            arch=self.arch,
            tags=self.tags,
            routes=self.routes,
            has_guest_access=self.has_guest_access,
            acceleration=acceleration,
            accepts_untrusted=self.accepts_untrusted or acceleration == "kvm",
        )
