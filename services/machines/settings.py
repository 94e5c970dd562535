"""Settings of the machines service, and the operator's file of machines."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.ids import MachineId
from services.chassis.settings import ServiceSettings, SettingsRefused, told, toml_table
from services.machines.adapters.libvirt_settings import LibvirtSettings
from services.machines.domain.spec import MachineSpec
from services.machines.network.settings import EgressSettings

NOT_THE_FILES = {
    "host": "the settings of the service name the host; take the line out",
    "machine_id": "a machine is named by id in its entry; take the line out",
    "profile": "only a [[machine]] entry has a profile; take the line out",
}
"""Keys of a specification that neither a profile nor an entry may set, and what to do instead."""


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
        id: MachineId
        profile: str

    profile: dict[str, dict[str, Any]]
    egress: EgressSettings | None = Field(default=None, description="the way out of the route internet")
    machine: list[Entry]


def load_machines(path: Path, host: str) -> list[MachineSpec]:
    """The machines that the operator wants on this host. Raises SettingsRefused naming file, machine and key."""
    table = toml_table(path)
    try:
        return _specs(_content(table), host)
    except SettingsRefused as refusal:
        raise SettingsRefused(f"{path}: {refusal}") from refusal


def _content(table: dict[str, Any]) -> MachinesFile:
    try:
        return MachinesFile.model_validate(table)
    except ValidationError as error:
        raise SettingsRefused("; ".join(f"{_place(table, f['loc'])}: {f['msg']}" for f in error.errors())) from error


def _place(table: dict[str, Any], loc: tuple[int | str, ...]) -> str:
    """The key, as an operator finds it: an entry by its id, or by its number among the entries if it has none."""
    match loc:
        case ("machine", int(number), *rest):
            entry = table["machine"][number]
            name = entry.get("id") if isinstance(entry, dict) else None
            return ": ".join([f"machine {name or f'number {number + 1}'}", *map(str, rest)])
        case _:
            return ".".join(map(str, loc))


def _specs(content: MachinesFile, host: str) -> list[MachineSpec]:
    counts = Counter(entry.id for entry in content.machine)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise SettingsRefused(f"named twice: {', '.join(twice)}")
    return [_spec(content, entry, host) for entry in content.machine]


def _spec(content: MachinesFile, entry: MachinesFile.Entry, host: str) -> MachineSpec:
    profile = content.profile.get(entry.profile)
    if profile is None:
        raise SettingsRefused(
            f"machine {entry.id}: unknown profile {entry.profile!r}; there are {sorted(content.profile)}"
        )
    extra = entry.model_extra or {}
    for where, keys in ((f"[profile.{entry.profile}]", profile), ("its entry", extra)):
        if key := next((key for key in NOT_THE_FILES if key in keys), None):
            raise SettingsRefused(f"machine {entry.id}: {key} cannot be set in {where}: {NOT_THE_FILES[key]}")
    try:
        return MachineSpec(machine_id=entry.id, host=host, profile=entry.profile, **{**profile, **extra})
    except ValidationError as error:
        raise SettingsRefused(f"machine {entry.id}: {told(error)}") from error
