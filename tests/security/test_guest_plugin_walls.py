"""What a guest plugin's process may do in the machine: it is nobody, alone, bounded, and without a network."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.platforms import PlatformRefused, PluginProgram
from guest.platforms.linux import Linux
from guest.platforms.plugin_process import plugin_argv
from guest.platforms.processes import of_user
from tests.integration.guest_harness import own_uids
from tests.unit.guest.bundled import Side, make_plugin, side_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root in its guest, and so it must be here"),
]
FIRST_UID = own_uids()
PROBE = """
import json, resource, socket, subprocess

def attempt(act):
    try:
        return str(act())
    except Exception as error:
        return type(error).__name__

class Plugin(GuestPlugin):
    def arm(self):
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        self.emit("seen", {
            "uids": status["Uid"].split(), "groups": status["Groups"].split(), "effective": status["CapEff"].strip(),
            "bounding": status["CapBnd"].strip(), "no_new_privs": status["NoNewPrivs"].strip(),
            "interfaces": [name for _, name in socket.if_nameindex()],
            "connect": attempt(lambda: socket.create_connection(("127.0.0.1", 22), 1)),
            "shadow": attempt(lambda: open("/etc/shadow").read(1)),
            "other": attempt(lambda: os.listdir("../../other")),
            "bundle": attempt(lambda: open("../bundle.zip", "ab")),
            "large": attempt(lambda: open("large", "wb", 0).write(b"x" * 2_000_000)),
            "memory": attempt(lambda: bytearray(600 << 20) and "there"),
            "forks": attempt(lambda: [subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
                                      for _ in range(100)]),
            "environment": sorted(os.environ), "oom": open("/proc/self/oom_score_adj").read().strip(),
        })
"""


@pytest.fixture(name="side")
def side_fixture() -> Iterator[Side]:
    """The agent's side of a lease, below a directory that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="malbox-walls-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        side = side_of(folder, Linux(), first_uid=FIRST_UID)
        yield side
        side.bundles.end_all()
        side.journal.close()


@pytest.mark.promise("P30", "P33")
def test_a_plugin_is_nobody_alone_bounded_and_leaves_nothing(side: Side) -> None:
    """Every wall is tried from inside; what it started in other sessions is gone with it."""
    side.start(make_plugin(side.folder / "code", "other"))
    name = side.start(make_plugin(side.folder / "code", "probe", PROBE))
    side.bundles.arm()
    [seen] = side.seen(name)
    assert isinstance(seen, dict)
    assert set(seen["uids"]) == {str(FIRST_UID + 1)}
    assert (seen["groups"], seen["no_new_privs"]) == ([], "1")
    assert {int(seen["effective"], 16), int(seen["bounding"], 16)} == {0}
    assert seen["interfaces"] == ["lo"]
    refused = {key: seen[key] for key in ("connect", "shadow", "other", "bundle", "memory", "forks")}
    assert refused == {
        "connect": "ConnectionRefusedError", "shadow": "PermissionError", "other": "PermissionError",
        "bundle": "PermissionError", "memory": "MemoryError", "forks": "BlockingIOError",
    }, json.dumps(seen)  # fmt: skip
    assert seen["large"] in ("1048576", "OSError")
    assert set(seen["environment"]) <= {"HOME", "LANG", "LC_CTYPE", "MALLOC_ARENA_MAX", "PATH", "TMPDIR"}
    assert seen["oom"] == "400"
    assert of_user(FIRST_UID + 1)
    assert side.bundles.end(name).outcome == "completed"
    assert of_user(FIRST_UID + 1) == []


@pytest.mark.promise("P30")
def test_the_one_capability_is_what_was_asked_for_and_nothing_else(side: Side) -> None:
    """Reading every file, and no more: neither writing them nor becoming somebody."""
    code = """
    class Plugin(GuestPlugin):
        def arm(self):
            self.emit("seen", len(open("/etc/shadow").read()) > 0)
            for act in (lambda: open("/etc/shadow", "ab"), lambda: os.setuid(0), lambda: os.kill(1, 0)):
                try:
                    act()
                except PermissionError:
                    self.emit("seen", "refused")
    """
    folder = make_plugin(side.folder / "code", "reader", code, runtime='capabilities = ["read-files"]')
    name = side.start(folder)
    side.bundles.arm()
    assert side.seen(name) == [True, "refused", "refused", "refused"]


def test_a_capability_that_is_none_is_refused() -> None:
    """The host may ask for what it likes."""
    program = PluginProgram("x", 0, Path("/b"), Path("/s"), 64, 1, ("sys-admin",))
    with pytest.raises(PlatformRefused, match="no capability 'sys-admin'"):
        plugin_argv(program)
