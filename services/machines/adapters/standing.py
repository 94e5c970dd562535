"""What an incarnation looked like when it was told to stand still, and in what it differs now.

The record lies beside the overlay. An incarnation that stands ready changes in nothing: whatever differs was done by
somebody else, and what was verified is no longer what is there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
from pydantic import BaseModel, ConfigDict, ValidationError

from services.machines.adapters import qemu_processes
from services.machines.adapters.domain_xml import definition, forwarded_port
from services.machines.adapters.kept_files import FileIdentity, write_durably
from services.machines.ports import Departure

STANDING = "standing.json"
STRAY_PROCESSOR_NS = 500_000  # one that stands still runs for nothing at all; one let go, for milliseconds at once


class Standing(BaseModel):
    """One incarnation that stands still. `resumed_for` is the grant that it was let run for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    process: qemu_processes.Process
    port: int
    domain_sha256: str
    files: dict[str, FileIdentity]
    processor_ns: int
    resumed_for: str | None = None

    def keep(self, life: Path) -> None:
        """The record is on disk."""
        write_durably(life / STANDING, self.model_dump_json(indent=2))


def record(domain: Any, machine_dir: Path, life: Path) -> Standing:
    """How the incarnation stands now. Raises ValueError when it is not one process with one port."""
    xml = domain.XMLDesc(0)
    port = forwarded_port(xml)
    pids = qemu_processes.of_machine(machine_dir)
    if len(pids) != 1 or port is None:
        raise ValueError(f"{len(pids)} processes, port {port}")
    process = qemu_processes.Process.of(pids[0])
    if process is None:
        raise ValueError("its process ended")
    return Standing(
        process=process,
        port=port,
        domain_sha256=definition(xml),
        files={path.name: FileIdentity.of(path) for path in sorted(life.iterdir()) if path.name != STANDING},
        processor_ns=qemu_processes.processor_ns(process.pid),
    )


def read(life: Path) -> Standing | None:
    """The record, or None when there is none that can be read."""
    try:
        return Standing.model_validate_json((life / STANDING).read_bytes())
    except (OSError, ValidationError):
        return None


def departures(domain: Any, life: Path) -> list[Departure]:
    """Everything in which the incarnation differs from its record. libvirtError passes through."""
    standing = read(life)
    if standing is None:
        return [Departure("files", "nothing says how it stood when it was verified")]
    return [*_of_domain(domain, standing), *_of_process(standing), *_of_files(life, standing)]


def _of_domain(domain: Any, standing: Standing) -> Iterator[Departure]:
    if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
        yield Departure("processors", "its domain does not stand still")
    if domain.isPersistent():
        yield Departure("domain", "its domain was made persistent, so that it could be started a second time")
    if definition(domain.XMLDesc(0)) != standing.domain_sha256:
        yield Departure("domain", "its domain is not defined as it was")


def _of_process(standing: Standing) -> Iterator[Departure]:
    process = standing.process
    if qemu_processes.Process.of(process.pid) != process:
        yield Departure("process", "its process is another one, or none")
        return
    if qemu_processes.is_stopped(process.pid):
        yield Departure("process", "its process was stopped")
    if qemu_processes.processor_ns(process.pid) - standing.processor_ns > STRAY_PROCESSOR_NS:
        yield Departure("processors", "its processors ran while they were to stand still")
    if not qemu_processes.listens(process.pid, standing.port):
        yield Departure("port", f"port {standing.port}, which leads to its agent, is not its own")


def _of_files(life: Path, standing: Standing) -> Iterator[Departure]:
    for name, identity in standing.files.items():
        try:
            is_same = FileIdentity.of(life / name) == identity
        except OSError:
            is_same = False
        if not is_same:
            yield Departure("files", f"its {name} was changed, replaced or removed")
    added = {path.name for path in life.iterdir()} - {*standing.files, STANDING}
    for name in sorted(added):
        yield Departure("files", f"{name[:60]!a} was added to its files")
