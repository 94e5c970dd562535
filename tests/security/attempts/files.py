"""Files of the host: the proof is their content, or what the host sees of them afterwards."""

import ctypes
import os
import stat
import struct
import subprocess
from pathlib import Path

from .known import Targets, attempt, call, nothing, sample_of


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
    return b"MALBOX_SECRET=swordfish" in Path(f"/proc/{targets['victim']}/environ").read_bytes() or nothing()


@attempt()
def _see_the_processes(targets: Targets) -> object:
    return str(targets["victim"]) in os.listdir("/proc") or nothing()  # noqa: PTH208 - a name less to resolve


@attempt()
def _write_a_file(targets: Targets) -> object:
    return Path(targets["writable"]).write_text("was here", encoding="utf-8")


@attempt()
def _make_a_file(targets: Targets) -> object:
    return (Path(targets["open_dir"]) / "made").write_text("was here", encoding="utf-8")


@attempt()
def _change_the_sample(targets: Targets) -> object:
    with Path(sample_of(targets)).open("r+b") as sample:
        return sample.write(b"J")


@attempt()
def _truncate_the_sample(targets: Targets) -> object:
    os.truncate(sample_of(targets), 0)
    return True


@attempt(root=True)
def _delete_the_sample(targets: Targets) -> object:
    Path(sample_of(targets)).unlink()
    return True


@attempt()
def _open_up_the_sample(targets: Targets) -> object:
    Path(sample_of(targets)).chmod(0o777)
    return True


@attempt()
def _date_the_sample_back(targets: Targets) -> object:
    os.utime(sample_of(targets), (1, 1))
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


def _inside_or(targets: Targets, inside: str, outside: str) -> Path:
    return Path(inside if targets["is_inside"] else outside)
