"""What hostile code tries, as one file: the plugin of the red team, and the same attempts without a sandbox.

An attempt returns a proof that it went through, or raises. `python attempts.py NAME TARGETS` makes one outside, where
it must go through; as a plugin's module it makes one inside. Standard library only; numbers are those of x86-64.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NEW_USER, NEW_NS, NEW_NET, NEW_UTS = 0x10000000, 0x00020000, 0x40000000, 0x04000000
DETACH = 2
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
Targets = dict[str, Any]
ATTEMPTS: dict[str, Callable[[Targets], object]] = {}
NEEDS_ROOT: set[str] = set()  # outside these go through for root only
NEEDS_NAMESPACE: set[str] = set()  # outside these are made where they change nothing of the host

libc = ctypes.CDLL(None, use_errno=True)


def attempt(
    *, root: bool = False, apart: bool = False
) -> Callable[[Callable[[Targets], object]], Callable[..., object]]:
    """The function is an attempt under its own name."""

    def known(function: Callable[[Targets], object]) -> Callable[[Targets], object]:
        name = function.__name__.removeprefix("_")
        ATTEMPTS[name] = function
        if root or apart:
            NEEDS_ROOT.add(name)
        if apart:
            NEEDS_NAMESPACE.add(name)
        return function

    return known


def call(number: int, *arguments: object) -> int:
    """What the system call returned. Raises OSError."""
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    returned = int(libc.syscall(ctypes.c_long(number), *wide))
    if returned < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return returned


# Files of the host: the proof is their content, or what the host sees of them afterwards.


@attempt()
def _read_passwd(_: Targets) -> object:
    return Path("/etc/passwd").read_text(encoding="utf-8")[:20]


@attempt(root=True)
def _read_shadow(_: Targets) -> object:
    return Path("/etc/shadow").read_text(encoding="utf-8")[:4]


@attempt()
def _read_a_secret(targets: Targets) -> object:
    return Path(targets["secret"]).read_text(encoding="utf-8")


@attempt()
def _read_through_a_link(targets: Targets) -> object:
    link = Path(targets["own"]) / "link"
    link.symlink_to(targets["secret"])
    return link.read_text(encoding="utf-8")


@attempt()
def _read_through_the_root_of_a_process(targets: Targets) -> object:
    return Path(f"/proc/self/root{targets['secret']}").read_text(encoding="utf-8")


@attempt()
def _read_through_the_root_of_another(targets: Targets) -> object:
    return Path(f"/proc/{targets['victim']}/root{targets['secret']}").read_text(encoding="utf-8")


@attempt()
def _read_an_environment(targets: Targets) -> object:
    return b"MALBOX_SECRET=swordfish" in Path(f"/proc/{targets['victim']}/environ").read_bytes() or _nothing()


@attempt()
def _see_the_processes(targets: Targets) -> object:
    return str(targets["victim"]) in os.listdir("/proc") or _nothing()  # noqa: PTH208 - a name less to resolve


@attempt()
def _write_a_file(targets: Targets) -> object:
    return Path(targets["writable"]).write_text("was here", encoding="utf-8")


@attempt()
def _make_a_file(targets: Targets) -> object:
    return (Path(targets["open_dir"]) / "made").write_text("was here", encoding="utf-8")


@attempt()
def _change_the_sample(targets: Targets) -> object:
    with Path(_sample(targets)).open("r+b") as sample:
        return sample.write(b"J")


@attempt()
def _truncate_the_sample(targets: Targets) -> object:
    os.truncate(_sample(targets), 0)
    return True


@attempt(root=True)
def _delete_the_sample(targets: Targets) -> object:
    Path(_sample(targets)).unlink()
    return True


@attempt()
def _open_up_the_sample(targets: Targets) -> object:
    Path(_sample(targets)).chmod(0o777)
    return True


@attempt()
def _date_the_sample_back(targets: Targets) -> object:
    os.utime(_sample(targets), (1, 1))
    return True


@attempt()
def _change_its_own_code(targets: Targets) -> object:
    with _inside_or(targets, "/plugin/plugin.py", targets["code"]).open("a", encoding="utf-8") as code:
        return code.write("\n")


@attempt(root=True)
def _change_the_interpreter(targets: Targets) -> object:
    with _inside_or(targets, "/app/malbox/sdk/frames.py", targets["writable"]).open("a", encoding="utf-8") as code:
        return code.write("\n")


@attempt(root=True)
def _make_a_device(targets: Targets) -> object:
    path = Path(targets["own"]) / "device"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    return path.open("rb").read(1)


@attempt()
def _run_a_program_of_its_own(targets: Targets) -> object:
    program = Path(targets["own"]) / "program"
    program.write_bytes(Path("/usr/bin/true").read_bytes())
    program.chmod(0o700)
    return subprocess.run([program], check=True, timeout=10).returncode


@attempt(root=True)
def _open_by_handle(targets: Targets) -> object:
    handle, mount_id = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128)), ctypes.c_int()
    return call(303, -100, str(targets["own"]).encode(), handle, ctypes.byref(mount_id), 0) + 1


@attempt(root=True)
def _change_the_root(targets: Targets) -> object:
    return call(161, str(targets["own"]).encode()) + 1


# Mounts and namespaces.


@attempt(apart=True)
def _mount(targets: Targets) -> object:
    return call(165, b"none", str(targets["own"]).encode(), b"tmpfs", 0, 0) + 1


@attempt(apart=True)
def _unmount(_: Targets) -> object:
    return call(166, b"/dev", DETACH) + 1


@attempt(root=True)
def _open_a_file_system(_: Targets) -> object:
    return call(430, b"tmpfs", 0)


@attempt(root=True)
def _copy_a_tree_of_mounts(_: Targets) -> object:
    return call(428, -100, b"/", 1)


@attempt()
def _a_user_namespace(_: Targets) -> object:
    return call(272, NEW_USER) + 1


@attempt(root=True)
def _a_mount_namespace(_: Targets) -> object:
    return call(272, NEW_NS) + 1


@attempt(root=True)
def _a_network_namespace(_: Targets) -> object:
    return call(272, NEW_NET) + 1


@attempt()
def _a_child_in_a_user_namespace(_: Targets) -> object:
    return _child(call(56, NEW_USER | signal.SIGCHLD, 0, 0, 0, 0))


@attempt()
def _a_child_in_a_user_namespace_by_clone3(_: Targets) -> object:
    wanted = ctypes.create_string_buffer(struct.pack("8Q", NEW_USER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0))
    return _child(call(435, wanted, 64))


@attempt(root=True)
def _enter_a_namespace(_: Targets) -> object:
    with Path("/proc/self/ns/uts").open("rb") as namespace:
        return call(308, namespace.fileno(), NEW_UTS) + 1


@attempt(apart=True)
def _name_the_host(_: Targets) -> object:
    return call(170, b"taken", 5) + 1


# Other processes: the proof is what the host sees of the victim.


@attempt()
def _kill(targets: Targets) -> object:
    os.kill(targets["victim"], signal.SIGKILL)
    return True


@attempt()
def _kill_by_descriptor(targets: Targets) -> object:
    signal.pidfd_send_signal(os.pidfd_open(targets["victim"]), signal.SIGKILL)
    return True


@attempt()
def _trace(targets: Targets) -> object:
    call(101, PTRACE_ATTACH, targets["victim"], 0, 0)
    os.waitpid(targets["victim"], 0)
    return call(101, PTRACE_DETACH, targets["victim"], 0, 0) + 1


@attempt()
def _read_memory(targets: Targets) -> object:
    return _memory(310, targets)


@attempt()
def _write_memory(targets: Targets) -> object:
    return _memory(311, targets)


@attempt()
def _slow_down(targets: Targets) -> object:
    os.setpriority(os.PRIO_PROCESS, targets["victim"], 19)
    return True


@attempt()
def _limit(targets: Targets) -> object:
    resource.prlimit(targets["victim"], resource.RLIMIT_NOFILE, (7, 7))
    return True


@attempt()
def _take_a_descriptor(targets: Targets) -> object:
    return call(438, os.pidfd_open(targets["victim"]), 0, 0)


@attempt(root=True)
def _signal_its_parent(_: Targets) -> object:
    os.kill(os.getppid(), 0)
    return True


# The kernel's doors.


@attempt(root=True)
def _bpf(_: Targets) -> object:
    return call(321, 0, ctypes.create_string_buffer(struct.pack("5I", 2, 4, 4, 1, 0) + bytes(100)), 120)


@attempt()
def _io_uring(_: Targets) -> object:
    return call(425, 4, ctypes.create_string_buffer(120))


@attempt(root=True)
def _fault_handling(_: Targets) -> object:
    return call(323, 1)


@attempt(root=True)
def _performance_events(_: Targets) -> object:
    wanted = ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0) + bytes(112))
    return call(298, wanted, 0, -1, -1, 0)


@attempt()
def _a_key(_: Targets) -> object:
    return call(248, b"user", b"malbox-red-team", b"x", 1, -1)


@attempt()
def _a_keyring(_: Targets) -> object:
    return call(250, 0, -3, 1)


@attempt()
def _anonymous_file(_: Targets) -> object:
    return call(319, b"x", 0)


@attempt(root=True)
def _file_notification(_: Targets) -> object:
    return call(300, 0, 0)


@attempt(root=True)
def _the_kernels_log(_: Targets) -> object:
    return call(103, 10, None, 0)


@attempt()
def _the_clock(_: Targets) -> object:
    return call(159, ctypes.create_string_buffer(208)) + 1


@attempt()
def _another_personality(_: Targets) -> object:
    return call(135, 0x0040000) + 1


@attempt()
def _local_descriptors(_: Targets) -> object:
    return call(154, 0, ctypes.create_string_buffer(64), 64) + 1


@attempt()
def _pages_into_a_pipe(_: Targets) -> object:
    content = ctypes.create_string_buffer(b"x" * 16)
    vector = ctypes.create_string_buffer(struct.pack("2Q", ctypes.addressof(content), 16))
    return call(278, os.pipe()[1], vector, 1, 0)


# Its own limits and rights.


@attempt()
def _raise_a_limit(_: Targets) -> object:
    resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))
    return True


@attempt()
def _more_processors(_: Targets) -> object:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return True


@attempt(root=True)
def _real_time(_: Targets) -> object:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return True


@attempt(root=True)
def _be_root(_: Targets) -> object:
    os.setresuid(0, 0, 0)
    return True


@attempt(root=True)
def _join_groups(_: Targets) -> object:
    os.setgroups([0])
    return True


@attempt(root=True)
def _memory_that_is_not_swapped(_: Targets) -> object:
    return call(151, 1) + 1


@attempt()
def _find_open_descriptors(targets: Targets) -> object:
    found = [number for number in range(3, 1024) if _is_open(number)]
    return found if len(found) > targets["descriptors_max"] else _nothing()


@attempt()
def _find_a_secret_in_the_environment(_: Targets) -> object:
    return os.environ["MALBOX_SECRET"]


# Talk: the proof is what the host hears.


@attempt()
def _every_family_of_sockets(_: Targets) -> object:
    found = set()
    for family in range(48):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                socket.socket(family, kind).close()
                found.add(family)
            except OSError:
                continue
    return sorted(found - {socket.AF_UNIX}) or _nothing()


@attempt()
def _tcp(targets: Targets) -> object:
    return _said(socket.create_connection(("127.0.0.1", targets["tcp"]), 3))


@attempt()
def _tcp6(targets: Targets) -> object:
    return _said(socket.create_connection(("::1", targets["tcp6"]), 3))


@attempt()
def _udp(targets: Targets) -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"was here", ("127.0.0.1", targets["udp"]))


@attempt()
def _unix(targets: Targets) -> object:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(targets["unix"])
    return _said(connection)


@attempt()
def _abstract_unix(targets: Targets) -> object:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("\0" + targets["abstract"])
    return _said(connection)


@attempt()
def _shared_memory(targets: Targets) -> object:
    return call(29, targets["ipc_key"], 4096, 0o1666) + 1


@attempt()
def _a_message_queue(targets: Targets) -> object:
    return call(68, targets["ipc_key"], 0o1666) + 1


@attempt()
def _semaphores(targets: Targets) -> object:
    return call(64, targets["ipc_key"], 1, 0o1666) + 1


@attempt()
def _a_posix_queue(targets: Targets) -> object:
    return call(240, targets["queue"].encode(), os.O_CREAT | os.O_RDWR, 0o666, 0) + 1


def _sample(targets: Targets) -> str:
    return "/input/sample" if targets["is_inside"] else str(targets["sample"])


def _inside_or(targets: Targets, inside: str, outside: str) -> Path:
    return Path(inside if targets["is_inside"] else outside)


def _memory(number: int, targets: Targets) -> int:
    """One byte of the victim's vector of arguments, which is readable and writable."""
    fields = Path(f"/proc/{targets['victim']}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    own = ctypes.create_string_buffer(1)
    here = ctypes.create_string_buffer(struct.pack("2Q", ctypes.addressof(own), 1))
    there = ctypes.create_string_buffer(struct.pack("2Q", int(fields[45]), 1))
    return call(number, targets["victim"], here, 1, there, 1, 0)


def _said(connection: socket.socket) -> int:
    with connection:
        return connection.send(b"was here")


def _child(pid: int) -> int:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _nothing() -> object:
    raise OSError("nothing to be had")


def outcome(name: str, targets: Targets) -> dict[str, object]:
    """Whether it went through, and its proof or what stood in the way."""
    try:
        proof = ATTEMPTS[name](targets)
    except Exception as error:  # noqa: BLE001 - whatever stood in the way
        return {"went_through": False, "said": f"{type(error).__name__}: {error}"}
    return {"went_through": True, "said": repr(proof)[:200]}


def run(context: Any) -> None:
    """The plugin's entry."""
    context.emit_json("said", outcome(context.config["name"], context.config["targets"]))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(outcome(sys.argv[1], json.loads(sys.argv[2]))))
