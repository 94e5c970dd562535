"""Settings of the network helper, and what an operator writes down for the route internet."""

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.chassis.settings import SettingsRefused, told, toml_table
from services.machines.network.words import NetworkFault

M = TypeVar("M", bound=BaseModel)


class EgressSettings(BaseModel):
    """`[egress]` of the machines file: the host's interface that guests on the route internet go out through.

    A card of its own is made on that interface (macvlan): it has this address, and the host is not on its way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interface: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$", description="of the host")
    address: IPv4Interface = Field(description="that guests are seen under, with its prefix, such as 192.0.2.10/24")
    gateway: IPv4Address = Field(description="the next hop on that interface")
    resolver: IPv4Address = Field(description="the only server that guests ask for names, whichever they name")
    rate_kib_s: int = Field(default=512, ge=8, le=1024 * 1024, description="what one guest may send per second")


class HelperSettings(BaseModel):
    """What the helper is told when it is started. Users are names of the system."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path = Field(description="the helper's own: its socket, the guests' sockets, fences, captures")
    blob_dir: Path
    machines_file: Path
    machines_user: str = Field(description="the only user that may ask; runs QEMU too, see guests_group")
    services_user: str = Field(description="owns the object store")
    network_user: str = Field(description="runs cables, INetSim and the recording of packets")
    cuts_on_breach: bool = Field(
        default=True, description="whether a guest whose rules were changed is off its card at once; tests look longer"
    )
    epoch_jump_max: int = Field(
        default=1_000_000, ge=1, description="how far beyond the last one that was acted for an epoch may be"
    )
    guests_group: str | None = Field(
        default=None, description="the control group that guests run in: whoever is in it is not heard"
    )
    capture_max_bytes: int = Field(default=64 * 1024 * 1024, ge=4096, le=4 * 1024**3)


class _EgressOnly(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    egress: EgressSettings | None = None


def load_egress(machines_file: Path) -> EgressSettings | None:
    """What the operator wrote down, or None. Raises NetworkFault naming the file."""
    return _loaded(_EgressOnly, machines_file).egress


def load_settings(path: Path) -> HelperSettings:
    """The helper's settings. Raises NetworkFault naming the file."""
    return _loaded(HelperSettings, path)


def _loaded(model: type[M], path: Path) -> M:
    try:
        return model.model_validate(toml_table(path))
    except SettingsRefused as refusal:
        raise NetworkFault(str(refusal)) from refusal
    except ValidationError as error:
        raise NetworkFault(f"{path}: {told(error)}") from error
