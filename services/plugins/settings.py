"""Settings of the plugins service."""

from pathlib import Path

from pydantic import Field

from services.chassis.settings import ServiceSettings


class PluginsSettings(ServiceSettings):
    """Where plugins are, how many run at once, and who this service is to a guest."""

    plugin_dirs: tuple[Path, ...] = Field(default=(), description="directories whose folders are plugins")
    guest_client_cert_file: Path
    guest_client_key_file: Path
    runs_at_once: int = Field(default=2, ge=1, le=256, description="sandboxed plugins at once, over all tasks")
    stages_at_once: int = Field(default=16, ge=1, le=1024, description="stages at once; guest stages mostly wait")
    sandbox_groups: tuple[Path, ...] = Field(
        default=(), description="directories in which this service may make control groups, one for each sandbox"
    )
    guest_connect_timeout_s: float = Field(default=20.0, gt=0, le=300)
