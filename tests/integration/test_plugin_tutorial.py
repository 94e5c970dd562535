"""docs/plugin-tutorial.md is followed to the letter: every file written, every command typed, every output compared."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.plugins_bench import connected, open_folder, service, settings
from tests.integration.test_plugins_live import Live

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/plugin-tutorial.md"
BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
TARGET = re.compile(r"Replace the whole of\n?\s*`([^`]+)`:")
COMMAND_TIMEOUT_S = 120


@dataclass(frozen=True)
class Step:
    """One block of the page: a command to type, a file to write, or output to expect."""

    language: str
    body: str
    target: str | None = None


def steps() -> Iterator[Step]:
    """The blocks in order; a file's name stands in the sentence before it."""
    text = PAGE.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        sentence = text[: block.start("body")].rpartition("\n\n```")[0].rpartition("\n\n")[2]
        named = TARGET.search(sentence)
        yield Step(block["language"], block["body"], named.group(1) if named else None)


def checkout(directory: Path) -> dict[str, str]:
    """A directory that looks like a checkout that is set up; the environment of whoever types there."""
    (directory / ".malbox/bin").mkdir(parents=True)
    (directory / ".malbox/plugins").mkdir()
    (directory / ".malbox/venv").symlink_to(sys.prefix)
    launcher = directory / ".malbox/bin/malbox"
    launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m cli "$@"\n', encoding="utf-8")
    launcher.chmod(0o755)
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}


def follow(directory: Path, environment: dict[str, str]) -> int:
    """Every step was done, and every output was as the page says. How many steps."""
    said, count = "", 0
    for step in steps():
        count += 1
        if step.target is not None:
            (directory / step.target).write_text(step.body, encoding="utf-8")
        elif step.language == "sh":
            ended = subprocess.run(
                ("sh", "-e", "-c", step.body), cwd=directory, env=environment, capture_output=True, text=True,
                timeout=COMMAND_TIMEOUT_S, check=False,
            )  # fmt: skip
            said = ended.stdout
            assert ended.returncode == 0, (step.body, ended.stdout, ended.stderr)
        elif step.language == "text":
            for line in step.body.splitlines():
                assert line in said, (line, said)
    return count


@pytest.mark.promise("F1")
async def test_the_tutorial_leads_to_a_plugin_that_runs(amqp_url: str, database_url: str) -> None:
    """From nothing to a plugin that a running service took up, with the words of the page and no others."""
    with open_folder() as folder:
        environment = checkout(folder)
        own = settings(amqp_url, database_url, folder, plugin_dirs=[folder / ".malbox/plugins"])
        async with service(own), connected(own) as bench:
            assert await asyncio.to_thread(follow, folder, environment) >= 10
            live = Live(bench, folder / ".malbox/plugins", own.scratch_dir / "versions")
            registered = await live.registered("addresses")
            said = await live.word_of(await live.order(registered))
    assert "http://192.0.2.1/x" in said
