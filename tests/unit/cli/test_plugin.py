"""malbox plugin: a folder is judged with file, line, key and remedy; a new one is a plugin at once."""

from pathlib import Path

import pytest

from cli import authoring
from malbox.sdk.manifest import load_manifest
from tests.unit.cli.conftest import Malbox
from tests.unit.cli.origin import Origin, as_json


def test_a_new_folder_is_a_valid_plugin(malbox: Malbox, tmp_path: Path) -> None:
    """The folder is printed, for a script; its name is the plugin's."""
    made = malbox("plugin", "new", "line-counter", "--in", str(tmp_path))
    assert (made.code, made.out.strip()) == (0, str(tmp_path / "line-counter"))
    assert load_manifest(tmp_path / "line-counter").plugin.name == "line-counter"
    judged = malbox("plugin", "validate", str(tmp_path / "line-counter"))
    assert judged.code == 0
    assert "line-counter 0.1.0 (host) is a plugin." in judged.out


def test_a_new_guest_plugin_is_one(malbox: Malbox, tmp_path: Path) -> None:
    """It has the class that its manifest names, and says what it is told of."""
    made = malbox("plugin", "new", "lookout", "--kind", "guest", "--in", str(tmp_path))
    assert made.code == 0, made
    judged = malbox("plugin", "validate", str(tmp_path / "lookout"))
    assert "lookout 0.1.0 (guest) is a plugin." in judged.out
    assert "SampleStarted" in judged.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("Bad Name",), 2, "cannot be the name of a plugin"),
        (("../escape",), 2, "cannot be the name of a plugin"),
        (("taken",), 2, "is there already"),
        (("fresh", "--kind", "moon"), 2, "no kind 'moon'"),
    ],
)
def test_what_cannot_be_made_leaves_no_folder(
    malbox: Malbox, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """The reason and what to say instead; nothing is left behind, and what is there already stays as it is."""
    (tmp_path / "in" / "taken").mkdir(parents=True)
    refused = malbox("plugin", "new", *arguments, "--in", str(tmp_path / "in"))
    assert refused.code == code
    assert words in refused.err
    assert "→" in refused.err
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["in", "in/taken"]


def test_samples_beyond_the_bound_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are run, and nothing is said where all are."""
    folder = authoring.create(tmp_path, "counter", "host")
    monkeypatch.setattr(authoring, "_run", lambda *_: None)
    (folder / "samples" / "zz").write_text("second")
    for most, said in ((2, ""), (1, f"1 more files of {folder / 'samples'} are not run: at most 1 are.")):
        monkeypatch.setattr(authoring, "SAMPLES_MAX", most)
        assert len(authoring.runs(folder, None, "{}", [], [])) == most
        told = capsys.readouterr().err.replace("\n", " ")
        assert (said in told, "are not run" in told) == (True, bool(said))


def test_every_fault_of_a_folder_is_on_a_line_of_its_own(malbox: Malbox, tmp_path: Path) -> None:
    """File, line, key, remedy; the exit status says that it is none."""
    malbox("plugin", "new", "faulty", "--in", str(tmp_path))
    path = tmp_path / "faulty" / "plugin.toml"
    path.write_text(
        path.read_text().replace('kind = "host"', 'kinds = "host"').replace("timeout_s = 30", "timeout = 30")
    )
    refused = malbox("plugin", "validate", str(tmp_path / "faulty"))
    assert refused.code == 4
    for words in (
        "plugin.toml:1: plugin.kind: missing; add it",
        "plugin.toml:5: plugin.kinds: unknown key; did you mean kind?",
        "plugin.toml:8: runtime.timeout: unknown key; did you mean timeout_s?",
    ):
        assert any(line.endswith(words) for line in refused.err.splitlines()), words


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def run(context:\n", "plugin.py, line 1: '(' was never closed"),
        ("def walk(context): ...\n", "plugin.py has no run; define run(context) in it"),
        ("\0", "plugin.py is not Python"),
    ],
)
def test_code_that_could_not_start_is_a_fault(malbox: Malbox, tmp_path: Path, code: str, words: str) -> None:
    """It is found by reading: nothing of a plugin runs to be judged."""
    malbox("plugin", "new", "faulty", "--in", str(tmp_path))
    (tmp_path / "faulty" / "plugin.py").write_text(code)
    refused = malbox("plugin", "validate", str(tmp_path / "faulty"))
    assert refused.code == 4
    assert words in refused.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config", "{"), "--config is not JSON"),
        (("--config", "[]"), "--config is no JSON object"),
        (("--input", "yara=x"), "names no result"),
        (("--input", "yara/yara=absent"), "absent cannot be submitted"),
        (("--event", "SampleExited=x"), "the plugin subscribes to nothing"),
        (("absent",), "absent cannot be submitted"),
    ],
)
def test_a_trial_that_means_nothing_is_refused_before_anything_runs(
    malbox: Malbox, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    """Wrong usage, with the word for it."""
    malbox("plugin", "new", "counter", "--in", str(tmp_path))
    refused = malbox("plugin", "test", str(tmp_path / "counter"), *arguments)
    assert refused.code == 2
    assert words in refused.err


@pytest.mark.parametrize(
    ("fact", "content", "words"),
    [
        ("GuestLost", "{}", "subscribes to PluginFinished"),
        ("PluginFinished", "[]", "is no JSON object"),
        ("PluginFinished", "{", "is not JSON"),
        ("PluginFinished", '{"outcome": "completed"}', "the manifest's filter leaves it out"),
    ],
)
def test_a_plugin_is_told_on_trial_only_what_a_task_would_tell_it(
    malbox: Malbox, tmp_path: Path, fact: str, content: str, words: str
) -> None:
    """A fact that it does not subscribe to, that its filter leaves out, or that has no fields is wrong usage."""
    malbox("plugin", "new", "counter", "--in", str(tmp_path))
    with (tmp_path / "counter/plugin.toml").open("a") as manifest:
        manifest.write(
            '[events]\nsubscribe = ["PluginFinished"]\n[events.filters.PluginFinished]\noutcome = ["crashed"]\n'
        )
    (tmp_path / "fact").write_text(content)
    refused = malbox("plugin", "test", str(tmp_path / "counter"), "--event", f"{fact}={tmp_path / 'fact'}")
    assert (refused.code, words in refused.err) == (2, True), refused.err


@pytest.mark.promise("D6")
def test_rejected_folders_are_listed_with_the_reason(malbox: Malbox, origin: Origin) -> None:
    """Whoever put a folder there sees why it is no plugin, without the service's log."""
    rejected = {"name": "broken", "state": "rejected", "reason": "plugin.toml:3: plugin.kind: missing; add it"}
    origin.answer("GET", "/plugins", as_json({"items": [{"name": "yara", "version": "1.0.0"}], "rejected": [rejected]}))
    listed = malbox("plugin", "list")
    assert "yara" in listed.out
    assert "plugin.kind: missing; add it" in listed.out
    origin.answer("GET", "/plugins/broken", as_json(rejected))
    assert "plugin.kind: missing; add it" in malbox("plugin", "show", "broken").out


@pytest.mark.promise("D1")
def test_a_quarantined_plugin_is_listed_and_shown_with_why_since_when_and_what_lifts_it(
    malbox: Malbox, origin: Origin
) -> None:
    """Whoever looks for a plugin need not know of instances."""
    given_up = {
        "name": "looper",
        "version": "1.0.0",
        "description": "loops",
        "state": "quarantined",
        "reason": "no module x",
        "since": "2026-01-02T03:04:05+00:00",
        "remedy": "malbox plugin replace looper --reason TEXT",
    }
    origin.answer("GET", "/plugins", as_json({"items": [given_up], "rejected": []}))
    listed = " ".join(malbox("plugin", "list").out.split())
    assert all(word in listed for word in ("quarantined", "no module x", "since 2026-01-02T03:04:05"))
    origin.answer("GET", "/plugins/looper", as_json(given_up))
    shown = " ".join(malbox("plugin", "show", "looper").out.split())
    assert all(word in shown for word in ("quarantined", "no module x", "2026-01-02", "malbox plugin replace looper"))


@pytest.mark.promise("D5")
def test_instances_are_listed_with_what_each_does(malbox: Malbox, origin: Origin) -> None:
    """Busy names task and stage, quarantined its reason."""
    busy = {"plugin": "yara", "state": "busy", "task_id": "tsk_1", "stage": "static", "runs": 7, "reason": ""}
    given_up = {"plugin": "looper", "state": "quarantined", "task_id": None, "stage": None, "reason": "no module x"}
    origin.answer("GET", "/plugins/instances", as_json({"items": [busy, given_up]}))
    shown = malbox("plugin", "instances").out
    lines = {name: next(line for line in shown.splitlines() if name in line) for name in ("yara", "looper")}
    assert all(word in lines["yara"] for word in ("busy", "tsk_1", "static", "7"))
    assert all(word in lines["looper"] for word in ("quarantined", "no module x"))


def test_what_a_run_logged_is_shown_and_moves_no_cursor(malbox: Malbox, origin: Origin) -> None:
    """All runs as a list; of one plugin every line, whatever it wrote."""
    run = {"plugin": "yara", "version": "1.0.0", "stage": "static", "attempt": 1, "outcome": "crashed", "reason": "odd"}
    origin.answer("GET", "/plugins/runs/tsk_1", as_json({"items": [{**run, "duration_ms": 7, "log_chars": 42}]}))
    listed = malbox("plugin", "log", "tsk_1").out
    assert all(word in listed for word in ("yara", "static", "crashed", "odd", "42"))
    origin.answer("GET", "/plugins/runs/tsk_1/yara", as_json({"items": [{**run, "log": "first\n\x1b[2Jsecond\n"}]}))
    shown = malbox("plugin", "log", "tsk_1", "yara").out
    assert "static, attempt 1: crashed odd" in shown
    assert "log: first" in shown
    assert "second" in shown
    assert "\x1b" not in shown


def test_replacing_needs_a_reason_and_sends_it(malbox: Malbox, origin: Origin) -> None:
    """Without one nothing is sent."""
    origin.answer("POST", "/plugins/instances/yara/replace", as_json({"items": []}, 202))
    assert malbox("plugin", "replace", "yara").code == 2
    assert malbox("plugin", "replace", "yara", "--reason", "new rules").code == 0
    [request] = [one for one in origin.requests if one.method == "POST"]
    assert b"new rules" in request.body
