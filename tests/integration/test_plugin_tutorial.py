"""docs/plugin-tutorial.md is followed to the letter: every file written, every command typed, every output compared."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from deploy.local.source import PACKAGES
from tests.integration.plugins_bench import connected, open_folder, service, settings
from tests.integration.test_plugins_live import Live

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/plugin-tutorial.md"
BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
TARGET = re.compile(r"Replace the whole of\n?\s*`([^`]+)`:")
COMMAND_TIMEOUT_S = 120
ABSENCE = """import sys


class Absence:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Absence())
"""


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
    """A checkout as `make up` leaves it; the environment of whoever types there.

    Its interpreter finds what requirements.lock installs, and the rest only once `deploy/bootstrap.sh --dev` was typed.
    """
    for name in PACKAGES:
        shutil.copytree(ROOT / name, directory / name)
    shutil.copy(ROOT / "pyproject.toml", directory)
    state = directory / ".malbox"
    for name in ("bin", "plugins", "venv-to-run/bin"):
        (state / name).mkdir(parents=True)
    (state / "venv").symlink_to(state / "venv-to-run")
    (state / "venv-to-run/sitecustomize.py").write_text(ABSENCE.format(absent=not_locked()), encoding="utf-8")
    without, dev = shlex.quote(str(state / "venv-to-run")), shlex.quote(sys.prefix)
    executable(state / "venv-to-run/bin/python", f'PYTHONPATH={without} exec {shlex.quote(sys.executable)} "$@"')
    launched = f'PYTHONPATH={shlex.quote(str(directory))}:{without} exec {shlex.quote(sys.executable)} -P -m cli "$@"'
    executable(state / "bin/malbox", launched)
    executable(
        directory / "deploy/bootstrap.sh", f'[ "$*" = --dev ] && ln -sfn {dev} {shlex.quote(str(state / "venv"))}'
    )
    return {"PATH": os.environ["PATH"], "HOME": str(directory)}


def executable(path: Path, script: str) -> None:
    """The path is a command that does this."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def not_locked() -> list[str]:
    """The modules here that requirements.lock does not bring."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {distribution(line.partition("==")[0]) for line in lines if "==" in line}
    return sorted(
        module for module, given in packages_distributions().items() if locked.isdisjoint(map(distribution, given))
    )


def distribution(name: str) -> str:
    """The name in the one spelling of them all (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def typed(command: str, directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """How the command ended, and what it said."""
    return subprocess.run(
        ("sh", "-e", "-c", command), cwd=directory, env=environment, capture_output=True, text=True,
        timeout=COMMAND_TIMEOUT_S, check=False,
    )  # fmt: skip


def follow(directory: Path, environment: dict[str, str]) -> int:
    """Every step was done, and every output was as the page says. How many steps."""
    said, count = "", 0
    for step in steps():
        count += 1
        if step.target is not None:
            (directory / step.target).write_text(step.body, encoding="utf-8")
        elif step.language == "sh":
            ended = typed(step.body, directory, environment)
            said = ended.stdout
            assert ended.returncode == 0, (step.body, ended.stdout, ended.stderr)
        elif step.language == "text":
            for line in step.body.splitlines():
                assert line in said, (line, said)
    return count


def test_what_the_page_does_not_install_is_not_there_for_it() -> None:
    """The test tools are nobody's before they are asked for: a page that forgets to fails the test below."""
    with open_folder() as folder:
        environment = checkout(folder)
        before = typed("./deploy/python.sh -m pytest --version", folder, environment)
        assert (before.returncode, "No module named 'pytest'" in before.stderr) == (1, True), before.stderr
        runs = typed(".malbox/bin/malbox --help && ./deploy/python.sh -c 'import malbox.sdk'", folder, environment)
        assert runs.returncode == 0, runs.stderr
        after = typed("./deploy/bootstrap.sh --dev; ./deploy/python.sh -m pytest --version", folder, environment)
        assert after.returncode == 0, after.stderr


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
