"""The domain that is written for a machine, and the judge of a live one."""

from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from services.machines.adapters.domain_xml import (
    QEMU,
    DomainPlan,
    Firmware,
    forwarded_port,
    identity,
    ownership,
    render,
    succeed,
)
from services.machines.adapters.hardening import Confinement, faults_of_domain, faults_of_process
from services.machines.domain.spec import MachineSpec

SPEC = MachineSpec(
    machine_id="linux-1", host="local", profile="linux", platform="linux", image="linux", memory_mib=512, vcpus=2
)
PLAN = DomainPlan(
    spec=SPEC,
    epoch=7,
    accelerator="tcg",
    emulator=Path("/usr/bin/qemu-system-x86_64"),
    kernel=Path("/images/linux/vmlinuz"),
    initrd=Path("/images/linux/initrd.img"),
    kernel_arguments=("rw", "quiet"),
    disk=Path("/machines/linux-1/building-7/disk.qcow2"),
    enrolment=Path("/machines/linux-1/building-7/enrolment"),
    agent_port=40001,
    console=Path("/machines/linux-1/building-7/console.log"),
)
HOSTILE = [
    ("<filesystem type='mount'/>", "filesystem"),
    ("<hostdev mode='subsystem' type='usb'/>", "hostdev"),
    ("<graphics type='vnc'/>", "graphics"),
    ("<video/>", "video"),
    ("<sound model='ich9'/>", "sound"),
    ("<audio id='1' type='pulseaudio'/>", "audio"),
    ("<channel type='spicevmc'/>", "channel"),
    ("<redirdev bus='usb'/>", "redirdev"),
    ("<smartcard mode='host'/>", "smartcard"),
    ("<shmem name='x'/>", "shmem"),
    ("<interface type='network'/>", "interface"),
    ("<controller type='usb' model='qemu-xhci'/>", "USB"),
    ("<serial type='tcp'/>", "serial"),
    ("<disk type='block' device='disk'/>", "disk"),
    ("<input type='tablet' bus='usb'/>", "input"),
    ("<memballoon model='virtio'/>", "memballoon"),
]


def _tree(plan: DomainPlan = PLAN) -> etree._Element:
    return etree.fromstring(render(plan))


def _with_device(device: str) -> str:
    domain = _tree()
    devices = domain.find("devices")
    assert devices is not None
    devices.append(etree.fromstring(device))
    return etree.tostring(domain, encoding="unicode")


@pytest.mark.promise("P8", "F6")
def test_each_incarnation_with_uefi_keeps_its_variables_in_a_file_of_its_own() -> None:
    """The code is shared and read only; the variables move with the incarnation and change no identity."""
    firmware = Firmware(Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/machines/linux-1/building-7/variables.fd"))
    written = render(replace(PLAN, firmware=firmware))
    loader = etree.fromstring(written).find("os/loader")
    assert loader is not None
    assert (loader.get("readonly"), loader.get("type"), loader.text) == ("yes", "pflash", str(firmware.code))
    life = Path("/machines/linux-1/life-9")
    following = succeed(
        written,
        epoch=9,
        disk=life / "disk.qcow2",
        enrolment=life / "enrolment",
        agent_port=1,
        variables=life / "variables.fd",
    )
    assert etree.fromstring(following).findtext("os/nvram") == str(life / "variables.fd")
    assert str(firmware.variables) not in following
    assert identity(following) == identity(written)
    assert faults_of_domain(following) == []
    assert etree.fromstring(render(PLAN)).find("os/nvram") is None


@pytest.mark.promise("P25")
def test_the_domain_that_is_written_matches_the_hardened_profile() -> None:
    """The judge of live domains finds nothing in what the writer writes."""
    assert faults_of_domain(render(PLAN)) == []


@pytest.mark.promise("P25")
@pytest.mark.parametrize(("device", "named"), HOSTILE)
def test_each_device_outside_the_profile_is_named_by_the_judge(device: str, named: str) -> None:
    """A single device too many is a fault that names the device."""
    faults = faults_of_domain(_with_device(device))
    assert faults
    assert any(named in fault for fault in faults)


@pytest.mark.promise("P25")
@pytest.mark.parametrize(
    ("index", "value"),
    [
        (1, "user,id=control,hostfwd=tcp:127.0.0.1:40001-10.0.2.15:7411"),
        (1, "user,id=control,restrict=on,hostfwd=tcp:0.0.0.0:40001-10.0.2.15:7411"),
        (1, "user,id=control,restrict=on,hostfwd=tcp:127.0.0.1:1-10.0.2.15:7411,guestfwd=tcp:10.0.2.9:1-cmd:sh"),
        (3, "vfio-pci,host=00:01.0"),
    ],
)
def test_a_control_card_that_leads_elsewhere_is_a_fault(index: int, value: str) -> None:
    """Unrestricted user networking, a forward off loopback or into a command, or another device is found."""
    domain = _tree()
    list(domain.iter(f"{{{QEMU}}}arg"))[index].set("value", value)
    assert faults_of_domain(etree.tostring(domain, encoding="unicode"))


def test_more_arguments_than_the_control_card_are_a_fault() -> None:
    """Nothing else is smuggled to the emulator's command line."""
    domain = _tree()
    commandline = domain.find(f"{{{QEMU}}}commandline")
    assert commandline is not None
    for value in ("-monitor", "tcp:0.0.0.0:4444"):
        etree.SubElement(commandline, f"{{{QEMU}}}arg", value=value)
    assert faults_of_domain(etree.tostring(domain, encoding="unicode")) != []


def test_the_same_machine_always_has_the_same_uuid_and_another_machine_another() -> None:
    """The fixed UUID lets libvirt itself refuse a second domain of a machine."""
    other = replace(PLAN, spec=SPEC.model_copy(update={"machine_id": "linux-2"}))
    assert _tree().findtext("uuid") == _tree(replace(PLAN, epoch=8)).findtext("uuid")
    assert _tree().findtext("uuid") != _tree(other).findtext("uuid")


def test_the_domain_says_whose_it_is() -> None:
    """Machine and epoch stand in the metadata; a domain of somebody else has no owner."""
    assert ownership(render(PLAN)) == ("linux-1", 7)
    assert ownership("<domain><name>malbox-linux-1</name></domain>") is None


def test_the_next_incarnation_differs_only_in_owner_files_and_port() -> None:
    """A saved domain is rewritten for its next life; what makes it the same machine is untouched."""
    disk, bundle = Path("/machines/linux-1/life-9/disk.qcow2"), Path("/machines/linux-1/life-9/enrolment")
    following = succeed(render(PLAN), epoch=9, disk=disk, enrolment=bundle, agent_port=40002)
    assert ownership(following) == ("linux-1", 9)
    assert forwarded_port(following) == 40002
    assert "building-7" not in following
    assert str(disk) in following
    assert identity(following) == identity(render(PLAN))
    assert faults_of_domain(following) == []


@pytest.mark.parametrize(
    "changed",
    [
        replace(PLAN, spec=SPEC.model_copy(update={"memory_mib": 1024})),
        replace(PLAN, spec=SPEC.model_copy(update={"vcpus": 1})),
        replace(PLAN, accelerator="kvm"),
        replace(PLAN, kernel=Path("/elsewhere/vmlinuz")),
        replace(PLAN, kernel_arguments=("rw", "init=/bin/sh")),
    ],
)
def test_another_machine_has_another_identity(changed: DomainPlan) -> None:
    """Memory, processors, acceleration, kernel and its arguments are part of what a live domain is compared by."""
    assert identity(render(changed)) != identity(render(PLAN))


def test_a_domain_that_is_not_ours_to_rewrite_is_refused() -> None:
    """A saved domain without our elements is an error, never rewritten by guess."""
    with pytest.raises(ValueError, match="metadata"):
        succeed("<domain/>", epoch=1, disk=Path("/d"), enrolment=Path("/e"), agent_port=1)


def test_hostile_entities_in_a_domain_are_not_expanded() -> None:
    """XML that reads a file of the host yields none of it."""
    xml = '<!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain><name>&x;</name></domain>'
    assert ownership(xml) is None
    assert faults_of_domain(xml)


CONFINED = Confinement(uid=9, no_new_privileges=True, seccomp_mode=2, capabilities=0)
LISTENING = (
    *("tcp:0.0.0.0:1", "udp:127.0.0.1:1", "telnet:127.0.0.1:1,server", "websocket:127.0.0.1:1", "vnc=:0", "-s", "-gdb"),
    *("socket,id=monitor,host=127.0.0.1,port=4444,server=on", "socket,id=monitor,port=4444,server=on"),
)


@pytest.mark.promise("P25")
@pytest.mark.parametrize(
    ("held", "arguments", "named"),
    [
        (Confinement(uid=0, no_new_privileges=True, seccomp_mode=2, capabilities=0), [], "root"),
        (Confinement(uid=9, no_new_privileges=False, seccomp_mode=2, capabilities=0), [], "gain privileges"),
        (Confinement(uid=9, no_new_privileges=True, seccomp_mode=0, capabilities=0), [], "system call filter"),
        (Confinement(uid=9, no_new_privileges=True, seccomp_mode=2, capabilities=1), [], "capabilities"),
        *((CONFINED, [argument], "listens") for argument in LISTENING),
    ],
)
def test_each_missing_protection_of_the_process_is_named(held: Confinement, arguments: list[str], named: str) -> None:
    """Root, privileges to gain, no filter, capabilities, a monitor on TCP: each is a fault of its own."""
    faults = faults_of_process(held, arguments)
    assert len(faults) == 1
    assert named in faults[0]


def test_a_confined_process_has_no_fault() -> None:
    """The positive control of the faults above."""
    monitor = ["-chardev", "socket,id=charmonitor,fd=20,server=on,wait=off", "-mon", "chardev=charmonitor"]
    assert faults_of_process(CONFINED, ["-netdev", "user,id=control,hostfwd=tcp:127.0.0.1:1-:2", *monitor]) == []


CABLED = replace(PLAN, cable=Path("/state/network/0123456789ab.sock"))


@pytest.mark.promise("P25", "F6")
def test_a_machine_on_a_cable_has_a_second_card_that_leads_to_the_helper_alone() -> None:
    """The card is a socket's other end; the definition passes the profile, and is another machine than one without."""
    xml = render(CABLED)
    assert faults_of_domain(xml) == []
    assert "stream,id=analysis,server=off,addr.type=unix,addr.path=/state/network/0123456789ab.sock" in xml
    assert identity(xml) != identity(render(PLAN))
    following = succeed(xml, epoch=9, disk=Path("/d"), enrolment=Path("/e"), agent_port=40002)
    assert identity(following) == identity(xml)
    assert forwarded_port(following) == 40002


@pytest.mark.promise("P25", "F6")
@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ("stream,id=analysis,server=off", "stream,id=analysis,server=on"),
        ("addr.type=unix,addr.path=", "addr.type=inet,addr.host=192.0.2.1,addr.port="),
        ("0123456789ab.sock", "0123456789ab.sock,reconnect=1"),
        ("netdev=analysis", "netdev=control"),
        ("stream,id=analysis", "tap,id=analysis"),
    ],
)
def test_a_second_card_that_leads_elsewhere_is_a_fault(was: str, is_now: str) -> None:
    """A server, an address, an option more, another wire: each is named."""
    xml = render(CABLED)
    assert was in xml
    assert faults_of_domain(xml.replace(was, is_now)) == [
        "its command line holds more than the control card and a cable"
    ]
