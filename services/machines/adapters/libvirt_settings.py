"""Settings of the libvirt adapter; part of the machines service's settings file."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class LibvirtSettings(BaseModel):
    """Where the hypervisor is, and where machines are kept. Times bound one call each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str = Field(description="of the libvirt daemon, such as qemu:///session?socket=/path/libvirt-sock")
    images_dir: Path = Field(description="built images, one entry per image name; read only")
    machines_dir: Path = Field(description="snapshots, overlays and fences; owned by the user that runs this service")
    cables_dir: Path | None = Field(
        default=None, description="where the network helper listens for guests; without it no guest has a second card"
    )
    emulator: Path = Path("/usr/bin/qemu-system-x86_64")
    firmware_code: Path = Field(
        default=Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), description='UEFI, for machines with `firmware = "efi"`'
    )
    firmware_variables: Path = Field(
        default=Path("/usr/share/OVMF/OVMF_VARS_4M.fd"), description="what its variables are at a machine's first boot"
    )
    call_timeout_s: float = Field(default=60, gt=0, le=600)
    boot_timeout_s: float = Field(default=180, gt=0, le=1800)
    save_timeout_s: float = Field(default=300, gt=0, le=1800, description="for digesting an image and saving memory")
