"""Settings of the machines service, and the operator's file of machines."""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.chassis.settings import ServiceSettings, SettingsRefused
from services.machines.adapters.libvirt_settings import LibvirtSettings
from services.machines.domain.spec import MachineSpec
from services.machines.network.settings import EgressSettings


class MachinesSettings(ServiceSettings):
    """How this host makes machines."""

    hypervisor: Literal["libvirt", "instant"] = Field(
        default="libvirt", description="`instant` is a fake for benchmarks: it runs nothing"
    )
    instant_fences_dir: Path | None = Field(
        default=None, description="where the fake keeps its fences; without it they end with its process"
    )
    libvirt: LibvirtSettings | None = None
    network_socket: Path | None = Field(
        default=None, description="of the network helper; without it machines offer the route none alone"
    )
    machines_file: Path
    guest_client_ca_file: Path
    guest_client_cert_file: Path
    guest_client_key_file: Path
    observe_interval_s: float = Field(default=5.0, gt=0)


class MachinesFile(BaseModel):
    """`[profile.<name>]` tables and `[[machine]]` entries with `id` and `profile`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class Entry(BaseModel):
        """One machine: its name, its profile, and what differs."""

        model_config = ConfigDict(frozen=True, extra="allow")
        id: str
        profile: str

    profile: dict[str, dict[str, Any]]
    egress: EgressSettings | None = Field(default=None, description="the way out of the route internet")
    machine: list[Entry]


def load_machines(path: Path, host: str) -> list[MachineSpec]:
    """The machines that the operator wants on this host. Raises SettingsRefused naming file, machine and key."""
    try:
        content = MachinesFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        counts = Counter(entry.id for entry in content.machine)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise SettingsRefused(f"{path}: named twice: {', '.join(twice)}")
        return [_spec(content, entry, host) for entry in content.machine]
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise SettingsRefused(f"{path}: {error}") from error


def _spec(content: MachinesFile, entry: MachinesFile.Entry, host: str) -> MachineSpec:
    profile = content.profile.get(entry.profile)
    if profile is None:
        raise SettingsRefused(
            f"machine {entry.id}: unknown profile {entry.profile!r}; there are {sorted(content.profile)}"
        )
    extra = entry.model_extra or {}
    return MachineSpec(machine_id=entry.id, host=host, profile=entry.profile, **{**profile, **extra})
