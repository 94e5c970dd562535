"""Judges what the hypervisor really runs, in its XML and in its process, against the hardened profile."""

from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from services.machines.adapters.domain_xml import QEMU

# Whatever is not on this list has no business in a machine: folders, USB, sound, clipboard, host devices, graphics.
_DEVICES_ALLOWED = frozenset(
    {"emulator", "disk", "controller", "serial", "console", "memballoon", "rng", "input", "audio"}
)
_CONTROLLERS_ALLOWED = frozenset({"pci", "sata", "usb"})
_ARGUMENTS_ALLOWED = ("-netdev", "user,id=control,restrict=on,", "-device", "virtio-net-pci,netdev=control,")
_SECCOMP_FILTER = 2


def faults_of_domain(xml: str) -> list[str]:
    """Every departure from the profile in a live domain's XML, one sentence each."""
    domain = etree.fromstring(xml.encode(), etree.XMLParser(resolve_entities=False, no_network=True))
    devices = domain.find("devices")
    faults = [] if devices is not None else ["the domain has no devices"]
    for device in devices if devices is not None else ():
        if device.tag not in _DEVICES_ALLOWED:
            faults.append(f"it has a device {device.tag}")
        elif device.tag == "controller" and device.get("type") not in _CONTROLLERS_ALLOWED:
            faults.append(f"it has a controller {device.get('type')}")
        elif device.tag == "controller" and device.get("type") == "usb" and device.get("model") != "none":
            faults.append("it has USB")
        elif device.tag == "audio" and device.get("type") != "none":
            faults.append("it has sound")
        elif device.tag == "input" and device.get("bus") != "ps2":
            faults.append("it has an input device that is not PS/2")
        elif device.tag == "memballoon" and device.get("model") != "none":
            faults.append("it has a memory balloon")
        elif device.tag == "disk" and device.get("type") != "file":
            faults.append("it has a disk that is not a file")
        elif device.tag in {"serial", "console"} and device.get("type") not in {"null", "file"}:
            faults.append(f"it has a {device.tag} to {device.get('type')}")
    if len(domain.findall("devices/disk")) != 1:
        faults.append("it does not have exactly one disk")
    faults += [
        f"it does not end on {event}" for event in ("poweroff", "reboot", "crash") if not _ends_on(domain, event)
    ]
    return faults + _argument_faults(domain)


def _ends_on(domain: etree._Element, event: str) -> bool:
    return domain.findtext(f"on_{event}") == "destroy"


def _argument_faults(domain: etree._Element) -> list[str]:
    said = [argument.get("value", "") for argument in domain.iter(f"{{{QEMU}}}arg")]
    if len(said) != len(_ARGUMENTS_ALLOWED) or not all(map(str.startswith, said, _ARGUMENTS_ALLOWED)):
        return ["its command line holds more than the control card"]
    forwards = [part for part in said[1].split(",") if part.startswith(("hostfwd=", "guestfwd="))]
    return (
        []
        if len(forwards) == 1 and forwards[0].startswith("hostfwd=tcp:127.0.0.1:")
        else ["its forward is not on loopback"]
    )


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
    listening = [argument for argument in arguments if argument.startswith(("tcp:", "telnet:", "vnc", "spice"))]
    return faults + [f"its process listens on {argument}" for argument in listening]
