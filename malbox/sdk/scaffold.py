"""A new plugin: a folder that is one already, to be changed into the one that is wanted."""

import tomllib
from pathlib import Path

from malbox.sdk.manifest import Manifest, load_manifest

MANIFEST = """\
[plugin]
name = "{name}"
version = "0.1.0"
description = "Counts the lines of the sample."
kind = "host"

[runtime]
timeout_s = 30
memory_mib = 256
scratch_mib = 1

[applies]
stages = ["static"]
# mime = ["text/*"]            # only such content; without it, any

[config]
type = "object"

[config.properties.lines_max]
type = "integer"
minimum = 1
default = 100000
description = "how many lines are counted at most"

[results.{name}]
kind = "json"
title = "Lines"
description = "lines; is_truncated"
# schema = {{ type = "object", required = ["lines", "is_truncated"] }}  # a result that breaks it fails the run
"""

CODE = '''\
"""Counts the lines of the sample: the smallest plugin that does something."""

from itertools import islice

from malbox.sdk import Context, PluginSkipped


def run(context: Context) -> None:
    """One JSON result. The sample is hostile: read it within bounds, believe nothing, and never run it."""
    limit = context.config["lines_max"]
    with context.sample.open("rb") as sample:
        lines = sum(1 for _line in islice(sample, limit + 1))
    if lines == 0:
        raise PluginSkipped("the sample is empty")
    context.emit_json("{name}", {{"lines": min(lines, limit), "is_truncated": lines > limit}})
    context.log("lines_were_counted", lines=lines)
'''

TEST = '''\
"""Runs the plugin in the sandbox that production uses: `pytest {name}`."""

from pathlib import Path

from malbox.sdk.testing import run_sandboxed

FOLDER = Path(__file__).parents[1]


def test_it_counts_the_lines_of_its_sample() -> None:
    """Three lines are three lines."""
    run = run_sandboxed(FOLDER, FOLDER / "samples/three_lines.txt")
    assert run.outcome == "completed", run.reason
    assert run.json("{name}") == {{"lines": 3, "is_truncated": False}}
'''

SAMPLE = "one\ntwo\nthree\n"

GUEST_MANIFEST = """\
[plugin]
name = "{name}"
version = "0.1.0"
description = "Counts the processes of the machine while the sample runs."
kind = "guest"

[runtime]
entry = "plugin:Watcher"
timeout_s = 10                 # of each call: initialize, arm, on_event, flush, shutdown
memory_mib = 128
scratch_mib = 1

[applies]
stages = ["guest"]
platforms = ["linux"]

[events]
subscribe = ["SampleStarted"]

[config]
type = "object"

[config.properties.interval_ms]
type = "integer"
minimum = 100
maximum = 10000
default = 500
description = "how often is looked"

[results.{name}]
kind = "json"
title = "Processes"
description = "one record for each look: at_ms, processes"
"""

GUEST_CODE = '''\
"""Counts the processes of the machine while the sample runs: the smallest guest plugin that does something."""

import threading
import time
from pathlib import Path
from typing import Any

from malbox.sdk.guest import Event, GuestPlugin

LOOKS_MAX = 5000


class Watcher(GuestPlugin):
    """One thread looks, from `arm` to `flush`. It is in the machine with the sample: believe nothing that it sees."""

    def initialize(self, config: dict[str, Any]) -> None:
        """Called first; the machine waits for it."""
        self._interval_s = config["interval_ms"] / 1000
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def arm(self) -> None:
        """Called last before the sample is started."""
        self._began_at = time.monotonic()
        self._thread.start()

    def on_event(self, event: Event) -> None:
        """Called for each fact that the manifest subscribes to."""
        self.log("sample_was_started", pid=event.content["pid"])

    def flush(self) -> None:
        """Called when nothing of the sample runs any more: the last moment to emit anything."""
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        for _look in range(LOOKS_MAX):
            self._look()
            if self._is_over.wait(self._interval_s):
                return

    def _look(self) -> None:
        processes = sum(path.name.isdecimal() for path in Path("/proc").iterdir())
        self.emit("{name}", {{"at_ms": int((time.monotonic() - self._began_at) * 1000), "processes": processes}})
'''

GUEST_TEST = '''\
"""Rehearses the plugin with the agent's own code, without a machine: `pytest {name}`."""

from pathlib import Path

from malbox.sdk.testing import run_sandboxed

FOLDER = Path(__file__).parents[1]


def test_it_counts_processes_from_arm_to_flush() -> None:
    """There is always one at least: its own."""
    run = run_sandboxed(FOLDER, FOLDER / "samples/three_lines.txt")
    assert run.outcome == "completed", run.reason
    assert all(look["processes"] >= 1 for look in run.json("{name}"))
    assert "sample_was_started" in run.log
'''


def create_plugin(parent: Path, name: str, kind: str = "host") -> Path:
    """The new folder `name` below `parent`, a plugin that runs. Raises FileExistsError, OSError, ValueError."""
    manifest, code, test = (MANIFEST, CODE, TEST) if kind == "host" else (GUEST_MANIFEST, GUEST_CODE, GUEST_TEST)
    Manifest.model_validate(tomllib.loads(manifest.format(name=name)))  # a name that is none leaves no folder behind
    folder = parent / name
    folder.mkdir(parents=True)
    for path, text in (
        ("plugin.toml", manifest.format(name=name)),
        ("plugin.py", code.format(name=name)),
        (f"tests/test_{name.replace('-', '_')}.py", test.format(name=name)),
        ("samples/three_lines.txt", SAMPLE),
    ):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    load_manifest(folder)
    return folder
