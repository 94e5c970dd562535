"""Landlock alone, without the rest of the sandbox, with the rights of each version that this kernel knows."""

import subprocess
import sys
from pathlib import Path

import pytest

from malbox.sdk import landlock

ROOT = Path(__file__).parents[2]
TRY = """
import subprocess, sys
from pathlib import Path
from malbox.sdk import landlock
known, place = int(sys.argv[1]), Path(sys.argv[2])
landlock.version = lambda: known
import ctypes
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
inside = place / "inside"
in_force = landlock.restrict(readable=["/etc"], executable=["/usr", "/lib", "/lib64", "/bin"], writable=[str(inside)])
done = []
def attempt(name, call):
    try:
        call()
        done.append(name)
    except OSError:
        pass
attempt("write inside", lambda: (inside / "made").write_text("x"))
attempt("write outside", lambda: (place / "made").write_text("x"))
attempt("read outside", lambda: (place / "secret").read_text())
attempt("read what is readable", lambda: Path("/etc/passwd").read_text())
attempt("run a program", lambda: subprocess.run(["/usr/bin/true"], check=True))
(inside / "program").write_bytes(Path("/usr/bin/true").read_bytes())
(inside / "program").chmod(0o700)
attempt("run what it wrote", lambda: subprocess.run([inside / "program"], check=True))
attempt("make a device", lambda: __import__("os").mknod(inside / "null", 0o020666, 0x103))
print(in_force, ",".join(done))
"""


def tried(known: int, place: Path) -> str:
    """What a process came to that was restricted with the rights of that version; 0: not at all."""
    (place / "inside").mkdir()
    (place / "secret").write_text("x", encoding="ascii")
    argv = [sys.executable, "-c", TRY, str(known), str(place)]
    done = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


@pytest.mark.promise("P33")
@pytest.mark.parametrize("known", range(1, 8))
def test_each_version_leaves_what_is_allowed_and_nothing_else(known: int, tmp_path: Path) -> None:
    """Written is only what is writable, run is only what is executable, and no version is asked for more."""
    in_force = min(known, landlock.version())
    assert in_force > 0, "this kernel has no Landlock: the sandbox stands on bubblewrap and the filter alone here"
    assert tried(in_force, tmp_path) == f"{in_force} write inside,read what is readable,run a program"


def test_without_landlock_nothing_is_restricted(tmp_path: Path) -> None:
    """Control of the above: unrestricted, the same attempts go through."""
    in_force, _, done = tried(0, tmp_path).partition(" ")
    assert in_force == "0"
    assert {"write inside", "write outside", "read outside", "run what it wrote"} <= set(done.split(","))
