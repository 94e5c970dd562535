"""Guest plugins in a real guest: what they saw from inside is in the task's report, with the bytes."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import samples
from tests.acceptance.installation import CHECKOUT, Installation

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]
TAKEN_UP_MAX_S = 60.0
FLEETING = """#!/usr/bin/env python3
# Harmless: writes a file that only its user may read, and many more, and takes them away again; listens on a port of
# its own meanwhile.
import os, socket, time
with open(os.open("/tmp/fleeting", os.O_WRONLY | os.O_CREAT, 0o600), "w") as target:
    target.write("here today")
for number in range(20):
    with open(f"/tmp/more-{number}", "w") as target:
        target.write(f"{number}")
with socket.create_server(("127.0.0.1", 4711)):
    time.sleep(6)
os.unlink("/tmp/fleeting")
for number in range(20):
    os.unlink(f"/tmp/more-{number}")
"""


def taken_up(installation: Installation, name: str) -> None:
    """The running service has the operator's plugin."""
    end = time.monotonic() + TAKEN_UP_MAX_S
    while installation.malbox("plugin", "show", name).code != 0:
        assert time.monotonic() < end, installation.malbox("plugin", "list").out
        time.sleep(0.5)


def documents(installation: Installation, report: dict[str, Any], into: Path) -> dict[str, Any]:
    """The whole JSON result behind each section of the report, by the name of the result."""
    found = {}
    for one in report["sections"]:
        path = into / one["result_id"]
        assert installation.malbox("artifacts", "get", one["result_id"], "--output", path).code == 0
        found[one["name"]] = json.loads(path.read_bytes()) if path.read_bytes()[:1] in (b"[", b"{") else None
    return found


@pytest.mark.promise("D3", "D4", "F1")
def test_what_guest_plugins_saw_in_a_real_machine_is_in_the_report(installation: Installation, tmp_path: Path) -> None:
    """A file that did not last is there with its bytes, and how many are not; an operator's plugin saw a socket."""
    shutil.copytree(CHECKOUT / "examples/sockets", installation.state / "plugins/sockets")
    try:
        taken_up(installation, "sockets")
        sample = samples.write(tmp_path / "fleeting.py", FLEETING)
        task = installation.submit(sample, "--timeout", "60")
        assert installation.wait(task) == "completed", installation.task(task)
    finally:
        shutil.rmtree(installation.state / "plugins/sockets")
    report = installation.report(task)
    assert [one for one in report["errors"] if one["plugin"] in ("filesystem", "sockets")] == []
    found = documents(installation, report, tmp_path)
    changes = [one for one in found["filesystem"] if one.get("path") == "/tmp/fleeting"]
    assert {"created", "written", "deleted", "kept"} <= {one["event"] for one in changes}, found["filesystem"]
    [kept] = [one["result"] for one in changes if one["event"] == "kept"]
    [result_id] = [
        one["result_id"] for one in report["artifacts"] if (one["plugin"], one["name"]) == ("filesystem", kept)
    ]
    assert installation.malbox("artifacts", "get", result_id, "--output", tmp_path / "kept").code == 0
    assert (tmp_path / "kept").read_bytes() == b"here today"
    assert {"local": "127.0.0.1:4711", "remote": "0.0.0.0:0", "state": "listens"} in found["sockets"]
    [not_kept] = [one for one in found["not_kept"] if one["why"] == "files_handed_out"]
    assert not_kept["limit"] == 16
    assert not_kept["files"] >= 5
