"""A plugin is tried as a task would run it: in the sandbox, on content that it is for, within its limits."""

import json
from pathlib import Path

import pytest

from cli.app import main
from malbox.sdk import Event, Input
from malbox.sdk.manifest import ManifestError
from malbox.sdk.scaffold import create_plugin
from malbox.sdk.testing import SandboxRefused, run_sandboxed
from tests.unit.guest.bundled import make_plugin

ROOT = Path(__file__).parents[2]


def edited(folder: Path, code: str, *, old: str = "", new: str = "") -> Path:
    """The folder with other code, and that change to its manifest."""
    (folder / "plugin.py").write_text(code)
    path = folder / "plugin.toml"
    path.write_text(path.read_text().replace(old, new) if old else path.read_text())
    return folder


def test_a_new_plugin_passes_its_trial_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`new`, then `test`: completed, with the result of its own sample."""
    assert main(["plugin", "new", "counter", "--in", str(tmp_path)]) == 0
    assert main(["plugin", "test", str(tmp_path / "counter"), "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert run["outcome"] == "completed"
    assert run["results"][0]["content"] == {"lines": 3, "is_truncated": False}


@pytest.mark.promise("P33")
def test_a_trial_is_in_the_sandbox(tmp_path: Path) -> None:
    """No network, no files of this host, nothing to write but the scratch directory: as in production."""
    code = """\
import os, socket
def run(context):
    tried = {}
    for name, attempt in (
        ("network", lambda: socket.socket().connect(("127.0.0.1", 22))),
        ("passwd", lambda: open("/etc/passwd").read()),
        ("plugin", lambda: open("/plugin/x", "w")),
        ("scratch", lambda: (context.scratch / "x").write_text("x")),
    ):
        try:
            attempt()
            tried[name] = "done"
        except OSError as error:
            tried[name] = type(error).__name__
    context.emit_json("prober", tried)
"""
    run = run_sandboxed(edited(create_plugin(tmp_path, "prober"), code), Path(__file__))
    assert run.outcome == "completed", run.reason
    tried = run.json("prober")
    assert tried.pop("scratch") == "done"
    assert "done" not in tried.values(), tried


@pytest.mark.promise("P34")
def test_limits_and_configuration_are_those_of_the_manifest(tmp_path: Path) -> None:
    """A run past its time is timed out; configuration that does not fit is refused before it."""
    folder = edited(
        create_plugin(tmp_path, "sleeper"), "import time\ndef run(context): time.sleep(60)\n", old="timeout_s = 30",
        new="timeout_s = 1",
    )  # fmt: skip
    assert run_sandboxed(folder, Path(__file__)).outcome == "timed_out"
    with pytest.raises(SandboxRefused, match="lines_max"):
        run_sandboxed(folder, Path(__file__), config={"lines_max": 0})


def test_content_that_a_task_would_pass_by_is_passed_by(tmp_path: Path) -> None:
    """What the bytes are is determined as in production, and the reason is the task's."""
    folder = create_plugin(tmp_path, "pictures")
    edited(folder, (folder / "plugin.py").read_text(), old="# mime", new='mime = ["image/*"]\n# mime')
    run = run_sandboxed(folder, Path(__file__))
    assert (run.outcome, run.reason) == ("skipped", "it is for image/*; this is text/x-python")


def test_a_trial_of_a_later_plugin_is_given_earlier_results(tmp_path: Path) -> None:
    """By plugin and name, as the context has them."""
    code = """\
def run(context):
    found = context.input("yara", "yara")
    context.emit_json("reader", {"rules": [one["rule"] for one in found.read_json()["matches"]]})
"""
    earlier = tmp_path / "yara.json"
    earlier.write_text('{"matches": [{"rule": "packed"}]}')
    given = (Input("yara", "yara", earlier, "application/json"),)
    run = run_sandboxed(edited(create_plugin(tmp_path, "reader"), code), Path(__file__), inputs=given)
    assert run.json("reader") == {"rules": ["packed"]}


def test_a_new_guest_plugin_is_rehearsed_as_it_stands(tmp_path: Path) -> None:
    """The agent's own code drives it: it is told, it watches, it is flushed, and nothing of it is left."""
    tmp_path.chmod(0o755)
    run = run_sandboxed(create_plugin(tmp_path, "lookout", "guest"), Path(__file__))
    assert run.outcome == "completed", run
    assert all(look["processes"] >= 1 for look in run.json("lookout"))
    assert "sample_was_started" in run.log


def test_a_guest_plugin_that_breaks_its_manifest_fails_in_rehearsal_as_in_a_task(tmp_path: Path) -> None:
    """What it may not emit, and what it raises, are its outcome."""
    undeclared = "class Plugin(GuestPlugin):\n    def arm(self):\n        self.emit('other', 1)\n"
    run = run_sandboxed(make_plugin(tmp_path, "undeclared", undeclared), Path(__file__))
    assert (run.outcome, run.reason) == ("failed", "result other is not declared in the manifest")
    skips = "class Plugin(GuestPlugin):\n    def initialize(self, config):\n        raise PluginSkipped('not here')\n"
    run = run_sandboxed(make_plugin(tmp_path, "skips", skips), Path(__file__))
    assert (run.outcome, run.reason) == ("skipped", "not here")


def test_a_rehearsed_plugin_is_told_what_the_test_gives(tmp_path: Path) -> None:
    """Through its subscriptions; the sample stands where it would be, and is not run."""
    folder = make_plugin(tmp_path, "told", more="[events]\nsubscribe = ['SampleExited']\n")
    events = (Event("SampleExited", {"exit_code": 7}), Event("SampleStarted", {"pid": 1}))
    run = run_sandboxed(folder, Path(__file__), events=events)
    assert run.json("seen") == [["initialize", {}], "arm", ["SampleExited", {"exit_code": 7}], "flush"]


def test_what_can_run_nowhere_but_in_a_task_is_not_tried(tmp_path: Path) -> None:
    """A part of the agent needs a machine; a broken folder is refused with its fault."""
    with pytest.raises(SandboxRefused, match="syscalls is a part of the agent"):
        run_sandboxed(ROOT / "services/plugins/builtin/syscalls", Path(__file__))
    with pytest.raises(ManifestError, match="missing"):
        run_sandboxed(tmp_path, Path(__file__))
