"""What somebody with the host in their hands may do to a machine behind the services' back. None of it is announced."""

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import libvirt
import libvirt_qemu

from services.machines.adapters.domain_xml import AGENT_PORT, GUEST_CONTROL_ADDRESS, NAME_PREFIX, OURS
from services.machines.adapters.host_fence import HostFence
from services.machines.adapters.machine_files import DISK
from services.machines.adapters.standing import STANDING
from tests.prove.bytes import flip
from tests.prove.ground import Ground

INTRUDER = f"{NAME_PREFIX}intruder"
STRANGER = "somebody-elses"
_MOMENT_S = 0.4
_EMPTY_DOMAIN = """\
<domain type="qemu"><name>{name}</name><memory unit="MiB">16</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="q35">hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type="usb" model="none"/><memballoon model="none"/></devices></domain>
"""

_LOSE = """
CREATE FUNCTION machines.lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER lose BEFORE INSERT ON machines.work FOR EACH ROW WHEN (NEW.kind LIKE 'clean@%')
EXECUTE FUNCTION machines.lose();
"""
_LOSE_NO_MORE = "DROP TRIGGER lose ON machines.work; DROP FUNCTION machines.lose();"
SEEN_TIMEOUT_S = 30.0

Undo = Callable[[], None]
_PAUSED = libvirt.VIR_DOMAIN_START_PAUSED


def destroyed(ground: Ground) -> None:
    """The domain is destroyed, as by virsh."""
    with ground.domain() as domain:
        domain.destroy()


def resumed(ground: Ground) -> None:
    """A machine that stands ready runs."""
    with ground.domain() as domain:
        domain.resume()


def resumed_for_a_moment(ground: Ground) -> None:
    """It ran for a moment, and stands still again."""
    with ground.domain() as domain:
        domain.resume()
        time.sleep(_MOMENT_S)  # the deed: the guest ran meanwhile, and stands still again
        with contextlib.suppress(libvirt.libvirtError):  # it was seen already, and is gone
            domain.suspend()


def killed(ground: Ground) -> None:
    """Its emulator died."""
    os.kill(ground.pid, signal.SIGKILL)


def stopped(ground: Ground) -> None:
    """Its emulator is stopped by a signal."""
    os.kill(ground.pid, signal.SIGSTOP)


def replaced(ground: Ground) -> None:
    """Under its name and its UUID stands a domain with two processors; nobody looked while none stood there."""
    with ground.unseen(), ground.libvirt() as connection:
        domain = connection.lookupByName(f"{NAME_PREFIX}{ground.machine_id}")
        xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
        domain.destroy()
        connection.createXML(xml.replace("<vcpu placement='static'>1<", "<vcpu placement='static'>2<"), _PAUSED)


def made_persistent(ground: Ground) -> None:
    """Libvirt keeps its definition, and would start it again."""
    with ground.libvirt() as connection:
        domain = connection.lookupByName(f"{NAME_PREFIX}{ground.machine_id}")
        connection.defineXML(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))


def undefined(ground: Ground) -> None:
    """Libvirt knows nothing of the domain, whose emulator goes on."""
    ground.restart_libvirt(forgetting=True)


def given_another_disk(ground: Ground) -> Undo:
    """A second disk is attached while it stands ready."""
    extra = ground.here.state.machines / "extra.img"
    extra.touch(mode=0o666)
    os.truncate(extra, 1 << 20)
    _give(extra, like=ground.overlay)
    with ground.domain() as domain:
        domain.attachDevice(
            f'<disk type="file" device="disk"><driver name="qemu" type="raw"/><source file="{extra}"/>'
            '<target dev="vdz" bus="virtio"/></disk>'
        )
    return extra.unlink


def overlay_deleted(ground: Ground) -> None:
    """Its overlay has no name any more."""
    ground.overlay.unlink()


def overlay_truncated(ground: Ground) -> None:
    """Half of its overlay is gone."""
    os.truncate(ground.overlay, ground.overlay.stat().st_size // 2)


def overlay_swapped(ground: Ground) -> None:
    """Its overlay is another file with the same bytes."""
    other = ground.overlay.with_name("other")
    shutil.copy2(ground.overlay, other)
    _give(other, like=ground.overlay)
    other.rename(ground.overlay)


def bundle_put_back(ground: Ground) -> None:
    """The enrolment bundle, which a restored guest must not find, lies where it was."""
    target = ground.life / ground.bundle.name
    target.write_bytes(ground.bundle.read_bytes())


def record_removed(ground: Ground) -> None:
    """Nothing says any more how it stood when it was verified."""
    (ground.life / STANDING).unlink()


def port_hijacked(ground: Ground) -> Undo:
    """A stranger listens where its agent was."""
    port = ground.standing.port
    _monitor(ground, f"hostfwd_remove control tcp:127.0.0.1:{port}")
    listener = socket.create_server(("127.0.0.1", port))
    return listener.close


def address_changed(ground: Ground) -> None:
    """Its agent's port is forwarded from another one."""
    _monitor(ground, f"hostfwd_remove control tcp:127.0.0.1:{ground.standing.port}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        other = probe.getsockname()[1]
    _monitor(ground, f"hostfwd_add control tcp:127.0.0.1:{other}-{GUEST_CONTROL_ADDRESS}:{AGENT_PORT}")


def epoch_rewritten(ground: Ground) -> None:
    """Its domain says that it is another owner's."""
    with ground.domain() as domain:
        element = f'<machine id="{ground.machine_id}" epoch="1"/>'
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, "malbox", OURS, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def intruder_started(ground: Ground) -> None:
    """A domain with our prefix, of no machine."""
    with contextlib.suppress(libvirt.libvirtError):  # destroyed before libvirt could say that it runs
        start_empty(ground, INTRUDER)


def strays_laid(ground: Ground) -> None:
    """An overlay, half a snapshot and a socket of older epochs lie about."""
    overlay = ground.overlay
    for name in ("life-0", "building-0"):
        stray = ground.files.directory / name
        stray.mkdir()
        (stray / DISK).write_bytes(b"stray")
        _give(stray, like=overlay)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(ground.files.directory / "life-sock"))


def libvirt_killed(ground: Ground) -> None:
    """The daemon was killed, and another one answers."""
    ground.restart_libvirt()


def fence_moved_ahead(ground: Ground) -> None:
    """The host acted for an owner that the store does not know."""
    fence = HostFence(ground.files.directory)
    stood = fence.stands()
    fence.path.write_text(str(stood._replace(epoch=stood.epoch + 5)), encoding="ascii")


def fence_deleted(ground: Ground) -> None:
    """The host remembers no owner."""
    (ground.files.directory / "fence").unlink()


async def work_lost(ground: Ground) -> None:
    """Its domain is destroyed, and the row that would have it cleaned is lost from the database."""
    mark = ground.ear.mark()
    async with ground.database() as database:
        await database.execute(_LOSE)
        try:
            destroyed(ground)
            await ground.ear.until(
                "the drift is recorded",
                lambda fact: fact.is_of(ground.machine_id) and fact.name == "machine.drifted",
                since=mark,
                timeout_s=SEEN_TIMEOUT_S,
            )
        finally:
            await database.execute(_LOSE_NO_MORE)


def warm_removed(ground: Ground) -> None:
    """There is no warm snapshot."""
    shutil.rmtree(ground.files.warm)


def one_byte(of: Callable[[Ground], Path]) -> Callable[[Ground], Undo]:
    """A deed: one byte in the middle of the file is another one. It is put right before the rebuild."""

    def do(ground: Ground) -> Undo:
        path = of(ground)
        offset = path.stat().st_size // 2
        flip(path, offset)
        return lambda: flip(path, offset) if path.exists() else None

    return do


def start_empty(ground: Ground, name: str) -> None:
    """A domain of that name, of no machine, stands still."""
    with ground.libvirt() as connection:
        connection.createXML(_EMPTY_DOMAIN.format(name=name), _PAUSED)


def exists(ground: Ground, name: str) -> bool:
    """Whether libvirt has a domain of that name."""
    with ground.libvirt() as connection:
        return name in {domain.name() for domain in connection.listAllDomains(0)}


def _monitor(ground: Ground, line: str) -> None:
    with ground.domain() as domain:
        libvirt_qemu.qemuMonitorCommand(domain, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)


def _give(path: Path, *, like: Path) -> None:
    owner = like.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
