"""The example plugins do what their README says, in the sandbox."""

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from examples.randomness.plugin import entropy
from malbox.sdk import Event, Input
from malbox.sdk.manifest import load_manifest
from malbox.sdk.testing import run_sandboxed

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/plugin.toml")))
def test_every_example_is_a_plugin_of_its_folders_name(name: str) -> None:
    """And the README says what it shows."""
    assert load_manifest(EXAMPLES / name).plugin.name == name
    assert f"`{name}`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


COMMANDS = re.findall(r"^\.malbox/bin/malbox (plugin test .*)$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
FOUND = {
    "randomness": '"highest":',
    "course": '"exit_codes":[3]',
    "sockets": "sockets (json",
    "left_behind": '"content":"script"',
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.promise("F1")
def test_every_example_can_be_tried_from_the_command_line_as_its_readme_says(name: str) -> None:
    """Where it stands, with the files that it brings; it completes, and prints what it found."""
    [command] = [one for one in COMMANDS if f"examples/{name}" in one]
    done = subprocess.run(
        (sys.executable, "-P", "-m", "cli", *shlex.split(command)), cwd=EXAMPLES.parent, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(EXAMPLES.parent)}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert FOUND[name] in done.stdout


def test_random_pieces_stand_out(tmp_path: Path) -> None:
    """Words, then what looks encrypted, then nothing but zeros."""
    sample = tmp_path / "sample"
    sample.write_bytes(b"word " * 205 + bytes(range(256)) * 4 + bytes(1024) + b"x")
    run = run_sandboxed(EXAMPLES / "randomness", sample, config={"piece_kib": 1})
    assert run.outcome == "completed", run.reason
    found = run.json("randomness")
    assert [piece["offset"] for piece in found["pieces"]] == [0, 1024, 2048, 3072]
    words, mixed, zeros, _ = (piece["bits_per_byte"] for piece in found["pieces"])
    assert zeros < 0.1 < words < 3 < mixed == found["highest"]
    assert not found["is_truncated"]


def test_randomness_is_measured_in_bits_per_byte() -> None:
    """The two ends of the scale, and the middle."""
    assert entropy(b"aaaa") == 0
    assert entropy(b"ab") == 1
    assert entropy(bytes(range(256))) == 8
    assert 7.9 < entropy(os.urandom(65536)) <= 8


def test_what_the_sample_left_is_sorted_by_content(tmp_path: Path) -> None:
    """Files of the agent alone, a copy of the sample among them."""
    sample, program, other = tmp_path / "sample", tmp_path / "a", tmp_path / "b"
    sample.write_bytes(b"#!/bin/sh\nrm -- $0\n")
    program.write_bytes(b"\x7fELF...")
    other.write_bytes(b"")
    inputs = tuple(
        Input(plugin, name, path, "application/octet-stream")
        for plugin, name, path in (
            ("agent", "dropped/000", program),
            ("agent", "dropped/001", sample),
            ("agent", "dropped/002", other),
            ("agent", "stdout", sample),
            ("yara", "dropped/000", sample),
        )
    )
    run = run_sandboxed(EXAMPLES / "left_behind", sample, inputs=inputs)
    assert run.outcome == "completed", run.reason
    files = run.json("left_behind")["files"]
    assert [(one["name"], one["content"], one["is_the_sample"]) for one in files] == [
        ("dropped/000", "program for Linux", False),
        ("dropped/001", "script", True),
        ("dropped/002", "other", False),
    ]
    assert run_sandboxed(EXAMPLES / "left_behind", sample).outcome == "skipped"


@pytest.mark.promise("D4")
def test_the_course_of_a_task_is_told_from_its_facts(tmp_path: Path) -> None:
    """In the sandbox, from events as a task brings them; without any there is nothing to tell of."""
    sample = tmp_path / "sample"
    sample.write_bytes(b"x")
    failed = {"plugin": "pe", "outcome": "crashed", "reason": "out of memory", "duration_ms": 7}
    events = (
        Event("GuestLost", {"reason": "gone"}),
        Event("PluginFinished", failed),
        Event("SampleExited", {"exit_code": 3}),
    )
    told = run_sandboxed(EXAMPLES / "course", sample, events=events)
    assert told.outcome == "completed", told.reason
    assert told.json("course") == {
        "guests_lost": 1,
        "exit_codes": [3],
        "not_done": [{"plugin": "pe", "outcome": "crashed", "reason": "out of memory"}],
    }
    untold = run_sandboxed(EXAMPLES / "course", sample)
    assert untold.json("course") == {"guests_lost": 0, "exit_codes": [], "not_done": []}


def test_sockets_of_the_sample_are_listed_by_the_kernels_table() -> None:
    """A listener of this test stands for the sample's; a process that is there no more is no fault."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        told = Event("SampleStarted", {"pid": os.getpid()})
        run = run_sandboxed(EXAMPLES / "sockets", Path(__file__), events=(told,))
        assert run.outcome == "completed", run.reason
        port = listener.getsockname()[1]
        assert {"local": f"127.0.0.1:{port}", "remote": "0.0.0.0:0", "state": "listens"} in run.json("sockets")
    gone = run_sandboxed(EXAMPLES / "sockets", Path(__file__), events=(Event("SampleStarted", {"pid": 2**22 + 1}),))
    assert (gone.outcome, "sample_had_ended_already" in gone.log) == ("completed", True)
