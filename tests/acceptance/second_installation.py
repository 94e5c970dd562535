"""A second installation beside the one of all acceptance tests: it borrows venv, image and source, and nothing else."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from deploy.local import processes
from deploy.local.processes import Identity
from deploy.local.state import State
from tests.acceptance.installation import STATE, Installation

COPY_TIMEOUT_S = 120
LAUNCHER = "bin/malbox"


def furnish(folder: Path) -> Installation:
    """An installation that was never started, in `folder`; everything it is made of lies there or is linked there."""
    folder.mkdir(mode=0o711)
    (folder / "venv").symlink_to(STATE / "venv")
    (folder / "bootstrap").symlink_to(STATE / "bootstrap")
    shutil.copytree(STATE / "app", folder / "app")
    argv = ["/bin/cp", "--archive", "--link", str(STATE / "images"), str(folder / "images")]
    subprocess.run(argv, check=True, timeout=COPY_TIMEOUT_S)
    launcher = folder / LAUNCHER
    launcher.parent.mkdir()
    launcher.write_text((STATE / LAUNCHER).read_text(encoding="utf-8").replace(str(STATE), str(folder)))
    launcher.chmod(0o755)
    return Installation(folder)


def throw_away(here: Installation) -> None:
    """Nothing of it runs, and its directory is gone."""
    here.malbox("down", timeout_s=120)
    for identity in running(here):
        processes.end(identity, signal.SIGKILL, processes.KILL_TIMEOUT_S)
    shutil.rmtree(here.state)


def running(here: Installation) -> list[Identity]:
    """Every process that bears the installation's mark."""
    return processes.leftovers(State(here.state))


def names(here: Installation) -> list[str]:
    """The names under which processes of the installation are remembered."""
    return sorted(path.stem for path in (here.state / "run").glob("*.pid"))


def innocent(user: str | None) -> "subprocess.Popen[bytes]":
    """A process that has nothing to do with any installation."""
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.Popen(["/bin/sleep", "600"], env=environment, start_new_session=True, user=user)
