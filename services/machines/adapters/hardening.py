"""Judges what the hypervisor really runs, in its XML and in its process, against the hardened profile."""

from dataclasses import dataclass
from pathlib import Path

from lxml import etree
from lxml.etree import _Element

from services.machines.adapters.domain_xml import QEMU

# Each device a machine may have, and what one of its attributes must say. Whatever is not here has no business in a
# machine: shared folders, host devices, graphics, clipboard channels, smart cards, TPMs, watchdogs, network cards.
_DEVICES_ALLOWED: dict[str, tuple[str, frozenset[str | None]]] = {
    "emulator": ("", frozenset({None})),
    "disk": ("type", frozenset({"file"})),
    "controller": ("type", frozenset({"pci", "sata", "usb"})),
    "serial": ("type", frozenset({"null", "file"})),
    "console": ("type", frozenset({"null", "file"})),
    "memballoon": ("model", frozenset({"none"})),
    "rng": ("model", frozenset({"virtio"})),
    "input": ("bus", frozenset({"ps2"})),
    "audio": ("type", frozenset({"none"})),
}
_CONTROL_CARD = ("-netdev", "user,id=control,restrict=on,", "-device", "virtio-net-pci,netdev=control,")
_CABLE = "stream,id=analysis,server=off,addr.type=unix,addr.path=/"
_SECCOMP_FILTER = 2
_NETWORKS = ("tcp:", "udp:", "telnet:", "websocket:", "vnc", "spice")
_DEBUGGERS = frozenset({"-s", "-gdb"})


def faults_of_domain(xml: str) -> list[str]:
    """Every departure from the profile in a live domain's XML, one sentence each."""
    domain = etree.fromstring(xml.encode(), etree.XMLParser(resolve_entities=False, no_network=True))
    devices = domain.find("devices")
    faults = [] if devices is not None else ["the domain has no devices"]
    faults += [fault for device in (() if devices is None else devices) if (fault := _device_fault(device))]
    if len(domain.findall("devices/disk")) != 1:
        faults.append("it does not have exactly one disk")
    faults += [
        f"it does not end on {event}" for event in ("poweroff", "reboot", "crash") if not _ends_on(domain, event)
    ]
    return faults + _argument_faults(domain)


def _device_fault(device: _Element) -> str | None:
    attribute, allowed = _DEVICES_ALLOWED.get(str(device.tag), ("", frozenset()))
    said = device.get(attribute) if attribute else None
    if said not in allowed:
        return f"it has a device {device.tag}" + (f" with {attribute} {said}" if attribute else "")
    if device.tag == "controller" and said == "usb" and device.get("model") != "none":
        return "it has USB"
    return None


def _ends_on(domain: _Element, event: str) -> bool:
    return domain.findtext(f"on_{event}") == "destroy"


def _argument_faults(domain: _Element) -> list[str]:
    said = [argument.get("value", "") for argument in domain.iter(f"{{{QEMU}}}arg")]
    control, analysis = said[: len(_CONTROL_CARD)], said[len(_CONTROL_CARD) :]
    if len(control) != len(_CONTROL_CARD) or not all(map(str.startswith, control, _CONTROL_CARD)):
        return ["its command line does not begin with the control card"]
    if analysis and not _is_analysis_card(analysis):
        return ["its command line holds more than the control card and a cable"]
    forwards = [part for part in said[1].split(",") if part.startswith(("hostfwd=", "guestfwd="))]
    return (
        []
        if len(forwards) == 1 and forwards[0].startswith("hostfwd=tcp:127.0.0.1:")
        else ["its forward is not on loopback"]
    )


def _is_analysis_card(said: list[str]) -> bool:
    """A card whose other end is the network helper's socket, and nothing else."""
    match said:
        case ["-netdev", netdev, "-device", device]:
            return netdev.startswith(_CABLE) and "," not in netdev[len(_CABLE) :] and ",netdev=analysis," in device
        case _:
            return False


@dataclass(frozen=True)
class Confinement:
    """How the kernel holds one process."""

    uid: int
    no_new_privileges: bool
    seccomp_mode: int
    capabilities: int


def confinement(pid: int, proc: Path = Path("/proc")) -> Confinement:
    """What the kernel says of the process. Raises OSError when it is gone."""
    lines = (proc / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    fields = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    return Confinement(
        uid=int(fields["Uid"][1]),
        no_new_privileges=fields["NoNewPrivs"][0] == "1",
        seccomp_mode=int(fields["Seccomp"][0]),
        capabilities=int(fields["CapEff"][0], 16),
    )


def faults_of_process(held: Confinement, arguments: list[str]) -> list[str]:
    """Every departure from the profile in a live hypervisor process, one sentence each."""
    faults = []
    if held.uid == 0:
        faults.append("its process is root")
    if held.capabilities:
        faults.append("its process has capabilities")
    if not held.no_new_privileges:
        faults.append("its process may gain privileges")
    if held.seccomp_mode != _SECCOMP_FILTER:
        faults.append("its process has no system call filter")
    return faults + [f"its process listens on {argument}" for argument in arguments if _is_of_a_network(argument)]


def _is_of_a_network(argument: str) -> bool:
    """Whether by it a monitor, a debugger or a display is reached over a network: QEMU has several words for each."""
    is_at_a_port = argument.startswith("socket,") and any(f",{key}=" in argument for key in ("host", "port"))
    return is_at_a_port or argument in _DEBUGGERS or argument.startswith(_NETWORKS)
