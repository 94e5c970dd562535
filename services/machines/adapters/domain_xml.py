"""What a machine is to libvirt: the hardened domain, written from the specification, and judged when it runs.

The control card is QEMU's user-mode network, cut off from host and outside (`restrict=on`), with one port of the host's
loopback forwarded to the agent. libvirt 9.0 can forward ports only through passt, hence the command-line elements.
The analysis card, where there is one, is a cable: a socket that the network helper listens on. A machine that
is started before the helper has made its network has a card that leads nowhere, and never anywhere else.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lxml import etree
from lxml.etree import _Element

from contracts.ids import uuid_of
from services.machines.domain.spec import MachineSpec
from services.machines.network.layout import guest_mac

OURS = "urn:malbox:machine:1"
QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
NAME_PREFIX = "malbox-"
ENROLMENT_NAME = "opt/org.malbox/enrolment"
AGENT_PORT = 7411
GUEST_CONTROL_ADDRESS = "10.0.2.15"
_BLOCK_DEVICES = {"virtio": ("vda", "virtio"), "sata": ("sda", "sata")}
# la57 costs a fifth level of page tables; smap breaks 32-bit segments in QEMU 7.2's emulation. Only when emulated.
_EMULATED_CPU_OFF = ("la57", "smap")
_TRANSLATION_CACHE_MIB = 256
_FORWARD = re.compile(r"hostfwd=tcp:127\.0\.0\.1:([0-9]{1,5})-")
_NAMESPACES = {"q": QEMU, "m": OURS}
_CARDS = {"virtio": "virtio-net-pci", "e1000e": "e1000e", "rtl8139": "rtl8139"}

Accelerator = Literal["kvm", "tcg"]


@dataclass(frozen=True)
class DomainPlan:
    """One incarnation: the machine, its owner's epoch, and the files and the port of the host that it uses."""

    spec: MachineSpec
    epoch: int
    accelerator: Accelerator
    emulator: Path
    kernel: Path
    initrd: Path
    kernel_arguments: tuple[str, ...]
    disk: Path
    enrolment: Path
    agent_port: int
    console: Path | None = None
    cable: Path | None = None
    firmware: "Firmware | None" = None


@dataclass(frozen=True)
class Firmware:
    """UEFI: its code, which is shared and read only, and the file in which this incarnation keeps its variables."""

    code: Path
    variables: Path


def domain_name(machine_id: str) -> str:
    """The name of the machine's domain."""
    return NAME_PREFIX + machine_id


def render(plan: DomainPlan) -> str:
    """The domain as XML."""
    domain = etree.Element(
        "domain", {"type": "kvm" if plan.accelerator == "kvm" else "qemu"}, nsmap={"qemu": QEMU, "malbox": OURS}
    )
    domain.extend(
        [
            _element("name", domain_name(plan.spec.machine_id)),
            _element("uuid", str(uuid_of(plan.spec.machine_id))),
            _element("metadata", _element(f"{{{OURS}}}machine", id=plan.spec.machine_id, epoch=str(plan.epoch))),
            _element("memory", str(plan.spec.memory_mib), unit="MiB"),
            _element("vcpu", str(plan.spec.vcpus), placement="static"),
            _element("sysinfo", _element("entry", name=ENROLMENT_NAME, file=str(plan.enrolment)), type="fwcfg"),
            _boot(plan),
            _features(plan),
            _cpu(plan),
            _element("clock", offset="utc"),
            _element("on_poweroff", "destroy"),
            _element("on_reboot", "destroy"),
            _element("on_crash", "destroy"),
            _devices(plan),
            _cards(plan),
        ]
    )
    return etree.tostring(domain, encoding="unicode", pretty_print=True)


def succeed(
    saved_xml: str, *, epoch: int, disk: Path, enrolment: Path, agent_port: int, variables: Path | None = None
) -> str:
    """The saved domain for its next incarnation: another owner, disk and port, no console; all else untouched.

    `variables` is where one with UEFI keeps its firmware's from now on.
    """
    domain = _parse(saved_xml)
    _one(domain, "metadata/m:machine").set("epoch", str(epoch))
    _one(domain, "devices/disk/source").set("file", str(disk))
    _one(domain, f"sysinfo/entry[@name='{ENROLMENT_NAME}']").set("file", str(enrolment))
    for kept in domain.findall("os/nvram"):
        kept.text = str(variables)
    for stale in domain.findall("devices/disk/backingStore"):
        _one(domain, "devices/disk").remove(stale)
    for console in (*domain.findall("devices/serial"), *domain.findall("devices/console")):
        console.set("type", "null")
        for source in console.findall("source"):
            console.remove(source)
    netdev = _one(domain, "q:commandline/q:arg[starts-with(@value, 'user,id=control,')]")
    netdev.set("value", _netdev(agent_port))
    return etree.tostring(domain, encoding="unicode")


def forwarded_port(xml: str) -> int | None:
    """The port of the host's loopback that leads to the domain's agent, or None when there is none."""
    for argument in _find(_parse(xml), "q:commandline/q:arg"):
        match = _FORWARD.search(argument.get("value", ""))
        if match:
            return int(match.group(1))
    return None


def ownership(xml: str) -> tuple[str, int] | None:
    """Machine and epoch that a domain's metadata name, or None when it is not ours."""
    found = _find(_parse(xml), "metadata/m:machine")
    if not found:
        return None
    machine_id, epoch = found[0].get("id", ""), found[0].get("epoch", "")
    return (machine_id, int(epoch)) if machine_id and epoch.isdecimal() else None


def identity(xml: str) -> str:
    """sha256 of a live domain, without what differs between incarnations by design (ids, sockets, paths, port)."""
    domain = _parse(xml)
    domain.attrib.pop("id", "")
    for path in (
        "metadata",
        "//alias",
        "//seclabel",
        "resource",
        "devices/disk",
        "os/nvram",
        "sysinfo",
        "devices/serial",
        "devices/console",
    ):
        for element in _find(domain, path):
            _drop(element)
    for argument in _find(domain, "q:commandline/q:arg[starts-with(@value, 'user,')]"):
        argument.set("value", "user")
    return _digest(domain)


def definition(xml: str) -> str:
    """sha256 of a live domain as one incarnation has it. Aliases do not count: a new libvirt daemon forgets some."""
    domain = _parse(xml)
    for alias in _find(domain, "//alias"):
        _drop(alias)
    return _digest(domain)


def _digest(domain: _Element) -> str:
    canonical = etree.canonicalize(etree.tostring(domain, encoding="unicode"), strip_text=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _boot(plan: DomainPlan) -> _Element:
    root = f"root=/dev/{_BLOCK_DEVICES[plan.spec.disk_bus][0]}"
    firmware = (
        (
            _element("loader", str(plan.firmware.code), readonly="yes", type="pflash"),
            _element("nvram", str(plan.firmware.variables)),
        )
        if plan.firmware
        else ()
    )
    return _element(
        "os",
        _element("type", "hvm", arch=plan.spec.arch, machine="q35"),
        *firmware,
        _element("kernel", str(plan.kernel)),
        _element("initrd", str(plan.initrd)),
        _element("cmdline", " ".join((root, *plan.kernel_arguments))),
    )


def _features(plan: DomainPlan) -> _Element:
    features = _element("features", _element("acpi"), _element("vmport", state="off"))
    if plan.accelerator == "tcg":
        features.append(_element("tcg", _element("tb-cache", str(_TRANSLATION_CACHE_MIB), unit="MiB")))
    return features


def _cpu(plan: DomainPlan) -> _Element:
    cpu = _element("cpu", mode="maximum", check="none", migratable="on")
    if plan.accelerator == "tcg":
        cpu.extend(_element("feature", policy="disable", name=name) for name in _EMULATED_CPU_OFF)
    return cpu


def _devices(plan: DomainPlan) -> _Element:
    name, bus = _BLOCK_DEVICES[plan.spec.disk_bus]
    console = (
        _element("serial", type="null")
        if plan.console is None
        else _element("serial", _element("source", path=str(plan.console)), type="file")
    )
    return _element(
        "devices",
        _element("emulator", str(plan.emulator)),
        _element(
            "disk",
            # An overlay lives as long as its process: nothing in it is worth a flush.
            _element("driver", name="qemu", type="qcow2", cache="unsafe", discard="unmap"),
            _element("source", file=str(plan.disk)),
            _element("target", dev=name, bus=bus),
            type="file",
            device="disk",
        ),
        _element("controller", type="usb", model="none"),
        console,
        _element("memballoon", model="none"),
        _element("rng", _element("backend", "/dev/urandom", model="random"), model="virtio"),
    )


def _cards(plan: DomainPlan) -> _Element:
    device = f"virtio-net-pci,netdev=control,mac={control_mac(plan.spec.machine_id)},bus=pcie.0,addr=0x10,romfile="
    arguments = ["-netdev", _netdev(plan.agent_port), "-device", device]
    if plan.cable is not None:
        model, mac = _CARDS[plan.spec.nic_model], guest_mac(plan.spec.machine_id)
        arguments += ["-netdev", f"stream,id=analysis,server=off,addr.type=unix,addr.path={plan.cable}"]
        arguments += ["-device", f"{model},netdev=analysis,mac={mac},bus=pcie.0,addr=0x11,romfile="]
    return _element(f"{{{QEMU}}}commandline", *(_element(f"{{{QEMU}}}arg", value=argument) for argument in arguments))


def _netdev(agent_port: int) -> str:
    forward = f"hostfwd=tcp:127.0.0.1:{agent_port}-{GUEST_CONTROL_ADDRESS}:{AGENT_PORT}"
    return f"user,id=control,restrict=on,ipv6=off,{forward}"


def control_mac(machine_id: str) -> str:
    """The control card's address: the guest knows the card by the first three octets."""
    tail = hashlib.sha256(machine_id.encode()).digest()[:3]
    return "02:4d:42:" + ":".join(f"{octet:02x}" for octet in tail)


def _parse(xml: str) -> _Element:
    return etree.fromstring(
        xml.encode(), etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True)
    )


def _element(tag: str, *children: str | _Element, **attributes: str) -> _Element:
    element = etree.Element(tag, attributes)
    for child in children:
        if isinstance(child, str):
            element.text = child
        else:
            element.append(child)
    return element


def _drop(element: _Element) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)


def _find(domain: _Element, path: str) -> list[_Element]:
    found = domain.xpath(path, namespaces=_NAMESPACES)
    return [element for element in found if isinstance(element, _Element)] if isinstance(found, list) else []


def _one(domain: _Element, path: str) -> _Element:
    found = _find(domain, path)
    if len(found) != 1:
        raise ValueError(f"expected one {path} in the domain, found {len(found)}")
    return found[0]
