"""Domains, one synchronous call each. `connection` is libvirt's; libvirtError passes through to the link.

Domains are transient: libvirt keeps no definition, so one that ended cannot be started a second time by anybody.
"""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import libvirt

from services.chassis.crash_points import Point, around
from services.machines.adapters.domain_xml import NAME_PREFIX, forwarded_port, ownership
from services.machines.errors import HypervisorRefused, HypervisorUnavailable
from services.machines.ports import DomainSeen, GuestAddress

LOOPBACK = "127.0.0.1"
PORT_TRIES_MAX = 5
_DESTROY_TRIES_MAX = 3
_DESTROY_PAUSE_S = 0.2
_PORT_IS_TAKEN = "Could not set up host forwarding rule"
_STATES: dict[int, Literal["running", "paused", "off"]] = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTOFF: "off",
    libvirt.VIR_DOMAIN_CRASHED: "off",
}


def start(connection: Any, render: Callable[[int], str]) -> int:
    """The domain that `render` writes for a port of the host's loopback runs; the port."""
    return _on_a_free_port(lambda port: connection.createXML(render(port), 0))


def restore(connection: Any, memory: Path, succeed: Callable[[str, int], str]) -> int:
    """The saved domain runs on, rewritten by `succeed` for a port of the host's loopback; the port."""
    saved = connection.saveImageGetXMLDesc(str(memory), libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
    flags = libvirt.VIR_DOMAIN_SAVE_RUNNING
    return _on_a_free_port(lambda port: connection.restoreFlags(str(memory), succeed(saved, port), flags))


def save(connection: Any, machine_id: str, memory: Path) -> None:
    """The domain's memory is in the file, and its process has ended."""
    domain = present(connection, machine_id)
    _change(lambda: domain.saveFlags(str(memory), None, libvirt.VIR_DOMAIN_SAVE_RUNNING))


def live_xml(connection: Any, machine_id: str) -> str:
    """The domain as it runs. Raises HypervisorRefused when there is none."""
    xml: str = present(connection, machine_id).XMLDesc(0)
    return xml


def exists(connection: Any, machine_id: str) -> bool:
    """Whether the machine has a domain."""
    return found(connection, machine_id) is not None


def suspend(connection: Any, machine_id: str) -> None:
    """The domain's processors stand still."""
    domain = present(connection, machine_id)
    if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
        _change(domain.suspend)


def resume(connection: Any, machine_id: str) -> None:
    """The domain's processors run."""
    domain = present(connection, machine_id)
    if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
        _change(domain.resume)


def gone(connection: Any, machine_id: str) -> None:
    """No domain of the machine is known to libvirt. Raises HypervisorUnavailable when it cannot be stopped."""
    for attempt in range(_DESTROY_TRIES_MAX):
        domain = found(connection, machine_id)
        if domain is None:
            return
        if attempt:
            # libvirt reports a busy process as a failure; it is usually gone a moment later.
            time.sleep(_DESTROY_PAUSE_S)
        _unless_gone(domain.destroy)
        if found(connection, machine_id) is not None and domain.isPersistent():
            _unless_gone(domain.undefine)
    if found(connection, machine_id) is not None:
        raise HypervisorUnavailable(f"the domain of {machine_id} cannot be stopped")


def seen(connection: Any) -> list[DomainSeen]:
    """Every domain, ours and others'."""
    return [one for domain in connection.listAllDomains(0) if (one := _seen(domain)) is not None]


def _seen(domain: Any) -> DomainSeen | None:
    try:
        name, state, xml = domain.name(), domain.state()[0], domain.XMLDesc(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None  # it ended between the listing and the question, so it is not there
        raise
    machine_id = name.removeprefix(NAME_PREFIX) if name.startswith(NAME_PREFIX) else None
    owner, port = ownership(xml), forwarded_port(xml)
    epoch = owner[1] if owner is not None and owner[0] == machine_id else None
    address = None if port is None else GuestAddress(LOOPBACK, port)
    return DomainSeen(name, machine_id, epoch, _STATES.get(state, "other"), address)


def found(connection: Any, machine_id: str) -> Any:
    """The machine's domain, or None."""
    try:
        return connection.lookupByName(NAME_PREFIX + machine_id)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def present(connection: Any, machine_id: str) -> Any:
    """The machine's domain. Raises HypervisorRefused when there is none."""
    domain = found(connection, machine_id)
    if domain is None:
        raise HypervisorRefused(f"{machine_id} has no domain")
    return domain


def _change(act: Callable[[], Any]) -> None:
    with around(Point.HOST_BEFORE, Point.HOST_AFTER):
        act()


def _unless_gone(act: Callable[[], Any]) -> None:
    try:
        _change(act)
    except libvirt.libvirtError as error:
        harmless = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_SYSTEM_ERROR)
        if error.get_error_code() not in harmless:
            raise


def _on_a_free_port(act: Callable[[int], Any]) -> int:
    """Somebody else may take the port between our look and QEMU's: then another one is tried."""
    for left in reversed(range(PORT_TRIES_MAX)):
        port = _free_port()
        try:
            with around(Point.HOST_BEFORE, Point.HOST_AFTER):
                act(port)
        except libvirt.libvirtError as error:
            if left == 0 or _PORT_IS_TAKEN not in error.get_error_message():
                raise
        else:
            break
    return port


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
