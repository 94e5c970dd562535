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


def create_plugin(parent: Path, name: str) -> Path:
    """The new folder `name` below `parent`, a host plugin that runs. Raises FileExistsError, OSError, ValueError."""
    Manifest.model_validate(tomllib.loads(MANIFEST.format(name=name)))  # a name that is none leaves no folder behind
    folder = parent / name
    folder.mkdir(parents=True)
    for path, text in (
        ("plugin.toml", MANIFEST.format(name=name)),
        ("plugin.py", CODE.format(name=name)),
        (f"tests/test_{name.replace('-', '_')}.py", TEST.format(name=name)),
        ("samples/three_lines.txt", SAMPLE),
    ):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    load_manifest(folder)
    return folder
