"""The machines service's process among those of its own user, of whom QEMU is one."""

import subprocess
from pathlib import Path

import pytest

from deploy.local import guest_group
from deploy.local.state import MACHINE_USER
from services.machines.adapters import own_process

MODULE = Path(own_process.__file__)
VICTIM = """
import sys
exec(sys.argv[2])  # the checkout may be closed to this user
if sys.argv[1] == "closed":
    close_to_own_user()
print("stands", flush=True)
sys.stdin.read()
"""
INTRUDER = """
import ctypes, sys
number = int(sys.argv[1])
try:
    open(f"/proc/{number}/mem", "rb+").close()
    print("memory")
except PermissionError:
    print("closed")
print("traced" if ctypes.CDLL(None).ptrace(0x4206, number, 0, 0) == 0 else "closed")  # PTRACE_SEIZE
"""


@pytest.mark.promise("P25", "P2")
@pytest.mark.parametrize(("state", "found"), [("open", ["memory", "traced"]), ("closed", ["closed", "closed"])])
def test_no_other_process_of_its_user_gets_into_the_service(state: str, found: list[str]) -> None:
    """Neither its memory nor its calls; the control is the same process before it closed itself."""
    with _as_machines_user(VICTIM, state, MODULE.read_text(encoding="utf-8"), stdin=subprocess.PIPE) as standing:
        assert standing.stdout is not None
        assert standing.stdout.readline() == "stands\n"
        with _as_machines_user(INTRUDER, str(standing.pid), stdin=subprocess.DEVNULL) as intruding:
            said, _ = intruding.communicate(timeout=30)
        assert said.split() == found
        standing.communicate(timeout=30)


def _as_machines_user(program: str, *arguments: str, stdin: int) -> subprocess.Popen[str]:
    argv = guest_group.joined(guest_group.Group(), MACHINE_USER, ["/usr/bin/python3", "-c", program, *arguments])
    return subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")
