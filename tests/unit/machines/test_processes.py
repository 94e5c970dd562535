"""What the process table says of a hypervisor, asked of this very process, and of a made-up one."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.machines.adapters import canary, qemu_processes
from services.machines.adapters.qemu_processes import Process


@pytest.fixture(name="child")
def child_fixture() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that does nothing."""
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        yield child
        child.kill()


def test_a_process_is_itself_until_it_ends(child: "subprocess.Popen[bytes]") -> None:
    """Known by its number and its start; a zombie is none."""
    known = Process.of(child.pid)
    assert known == Process.of(child.pid) != Process.of(os.getpid())
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Process.of(child.pid) is None


def test_a_stopped_process_is_told_from_one_that_waits(child: "subprocess.Popen[bytes]") -> None:
    """SIGSTOP shows in its state, as does SIGCONT."""
    assert not qemu_processes.is_stopped(child.pid)
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert qemu_processes.is_stopped(child.pid)
    os.kill(child.pid, signal.SIGCONT)
    os.waitid(os.P_PID, child.pid, os.WCONTINUED)
    assert not qemu_processes.is_stopped(child.pid)


@pytest.mark.promise("P28")
def test_a_port_is_only_its_own_listeners(child: "subprocess.Popen[bytes]") -> None:
    """Another process that knows the number does not own it; a port that nobody listens on is nobody's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert qemu_processes.listens(os.getpid(), port)
        assert not qemu_processes.listens(child.pid, port)
    assert not qemu_processes.listens(os.getpid(), port)


def test_only_the_threads_of_virtual_processors_are_counted(tmp_path: Path) -> None:
    """QEMU's other threads do housekeeping while the guest stands still."""
    for number, (name, ran_ns) in enumerate([("qemu-system-x86", 7), ("CPU 0/TCG", 1000), ("CPU 1/KVM", 200)]):
        thread = tmp_path / "42" / "task" / str(42 + number)
        thread.mkdir(parents=True)
        (thread / "comm").write_text(name + "\n")
        (thread / "schedstat").write_text(f"{ran_ns} 5 3\n")
    assert qemu_processes.processor_ns(42, tmp_path) == 1200
    assert qemu_processes.processor_ns(43, tmp_path) == 0


@pytest.mark.promise("P5")
@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("/l/lib/domain-6-malbox-linux-1/master-key.aes", "/l/lib/domain-6-malbox-linux-1"),
        ("/l/lib/other/master-key.aes", None),
        ("/l/lib/domain-6-malbox-linux-1/disk.qcow2", None),
    ],
)
def test_the_directory_that_libvirt_made_for_a_process_is_known_from_its_arguments(
    tmp_path: Path, file: str, place: str | None
) -> None:
    """Only what libvirt itself named so: it is removed when libvirt forgot the domain."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(
        b'qemu-system-x86_64\0-object\0{"id":"key","file":"' + file.encode() + b'"}\0'
    )
    assert qemu_processes.libvirt_directory(7, tmp_path) == (Path(place) if place else None)


@pytest.mark.promise("P8")
def test_a_canary_is_found_wherever_it_lies_in_a_file(tmp_path: Path) -> None:
    """Also across the pieces in which the file is read; each lease has another one."""
    mark = canary.of_lease("linux-1", "lea_1", 3)
    others = {canary.of_lease(*lease) for lease in (("linux-2", "lea_1", 3), ("linux-1", "lea_2", 3))}
    assert mark not in others
    for offset in (0, 4 * 1024 * 1024 - 5, 4 * 1024 * 1024):
        (tmp_path / "disk").write_bytes(bytes(offset) + mark + bytes(100))
        assert canary.is_in(tmp_path / "disk")
    (tmp_path / "disk").write_bytes(bytes(5 * 1024 * 1024))
    assert not canary.is_in(tmp_path / "disk")
