"""What docs/plugin-tutorial.md has typed at a running installation: the plugins are taken up, and are in the report."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.installation import COMMAND_TIMEOUT_S, Installation
from tests.acceptance.test_guest_plugins import taken_up
from tests.integration.test_plugin_tutorial import steps

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]
PLUGINS = ("addresses", "lookout")
PLACED = ("printf ", "cp -r ")
"""How the commands begin that put a file in its place."""


@pytest.mark.promise("F1")
def test_the_plugins_of_the_tutorial_are_shown_and_are_in_the_report(
    installation: Installation, tmp_path: Path
) -> None:
    """The files and commands are those of the page; what it says of the log is so as well."""
    (tmp_path / ".malbox").symlink_to(installation.state)
    for name in PLUGINS:
        assert installation.malbox("plugin", "new", name, *_kind(name), cwd=tmp_path).code == 0
    commands = _written(tmp_path)
    try:
        for name in PLUGINS:
            taken_up(installation, name)
        shown, submitted = [_typed(installation, command, tmp_path) for command in commands]
    finally:
        for name in PLUGINS:
            shutil.rmtree(installation.state / "plugins" / name, ignore_errors=True)
    assert "addresses: line, address; is_truncated" in shown
    assert "http://198.51.100.7/payload" in submitted
    assert {*PLUGINS} <= set(submitted.split())
    task = next(word for word in submitted.split() if word.startswith("tsk_"))
    assert '"event":"addresses_were_listed"' in installation.malbox("plugin", "log", task, "addresses").out


def _kind(name: str) -> tuple[str, ...]:
    return ("--kind", "guest") if name == "lookout" else ()


def _written(directory: Path) -> list[str]:
    """Every file is as the page leaves it. What is to be typed then."""
    running: list[str] = []
    for step in steps():
        if step.target is not None:
            (directory / step.target).write_text(step.body, encoding="utf-8")
        elif step.language == "sh":
            for line in step.body.splitlines():
                if line.startswith(PLACED):
                    subprocess.run(("sh", "-e", "-c", line), cwd=directory, check=True, timeout=COMMAND_TIMEOUT_S)
        elif step.language == "":
            running += step.body.splitlines()
    return running


def _typed(installation: Installation, command: str, directory: Path) -> str:
    done = subprocess.run(
        ("sh", "-e", "-c", command), cwd=directory, env=installation.environment, capture_output=True, text=True,
        timeout=COMMAND_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout
