"""An installation of its own for the tests: real servers, real services, a real guest, driven by its own command."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.state import place

CHECKOUT = Path(__file__).resolve().parents[2]
_USUAL = place(CHECKOUT).resolve()  # where unprivileged users can get to, whatever the checkout's own mode
STATE = _USUAL.with_name(f"{_USUAL.name}-test")
UP_TIMEOUT_S = 900
COMMAND_TIMEOUT_S = 280
READY_TIMEOUT_S = 240.0
POLL_S = 0.2


@dataclass(frozen=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its standard output as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Installation:
    """One installation."""

    state: Path

    def malbox(self, *arguments: str | Path, timeout_s: float = COMMAND_TIMEOUT_S, cwd: Path | None = None) -> Said:
        """The command's exit code and output."""
        done = subprocess.run(
            [str(self.state / "bin" / "malbox"), *map(str, arguments)],
            env=self.environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    @property
    def environment(self) -> dict[str, str]:
        """What its commands are run with."""
        return {**os.environ, "MALBOX_STATE": str(self.state), "COLUMNS": "120", "NO_COLOR": "1"}

    def submit(self, sample: Path, *arguments: str) -> str:
        """The task of a submission that is not waited for."""
        said = self.malbox("submit", sample, "--json", *arguments)
        assert said.code == 0, said
        return str(said.json()["tasks"][0]["task_id"])

    def analyse(self, sample: Path, *arguments: str) -> dict[str, Any]:
        """The report of a sample, waited for."""
        task = self.submit(sample, *arguments)
        assert self.wait(task) == "completed", self.task(task)
        return self.report(task)

    def report(self, task: str) -> dict[str, Any]:
        """The task's report."""
        said = self.malbox("report", task, "--json")
        assert said.code == 0, said
        report: dict[str, Any] = said.json()
        return report

    def task(self, task: str) -> dict[str, Any]:
        """The task as the API shows it."""
        said = self.malbox("task", "show", task, "--json")
        assert said.code == 0, said
        shown: dict[str, Any] = said.json()
        return shown

    def wait(self, task: str, states: tuple[str, ...] = (), timeout_s: float = READY_TIMEOUT_S) -> str:
        """The task's state once it is over, or one of `states`."""
        wanted = states or ("completed", "failed", "timed_out", "cancelled", "unserviceable")
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            said = self.malbox("task", "show", task, "--json")
            if said.code == 0 and said.json()["state"] in wanted:
                return str(said.json()["state"])
            time.sleep(POLL_S)
        raise AssertionError(f"task {task} was never {wanted}: {said}")

    def wait_for_children(self, task: str, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
        """The task's report once it names children, and every one that has a task is judged in it."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            report = self.report(task)
            awaited = [child for child in report["children"] if child["task_id"]]
            if awaited and all(child["verdict"] for child in awaited):
                return report
            time.sleep(POLL_S)
        raise AssertionError(f"the children of {task} were never all judged: {report['children']}")

    def machine(self, machine_id: str = "linux-1") -> dict[str, Any]:
        """The machine as the API shows it."""
        said = self.malbox("machine", "show", machine_id, "--json")
        assert said.code == 0, said
        shown: dict[str, Any] = said.json()
        return shown

    def wait_until_ready(self, machine_id: str = "linux-1", timeout_s: float = READY_TIMEOUT_S) -> None:
        """The machine is verified clean and nobody's."""
        end = time.monotonic() + timeout_s
        shown: dict[str, Any] = {}
        while time.monotonic() < end:
            said = self.malbox("machine", "show", machine_id, "--json")
            shown = said.json() if said.code == 0 else {}
            if shown.get("state") == "ready":
                return
            time.sleep(POLL_S)
        raise AssertionError(f"machine {machine_id} was never ready: {shown}")

    def pid(self, process: str) -> int:
        """The process id of a service or server."""
        parts = self.malbox("status", "--json").json()["parts"]
        return int(next(part["pid"] for part in parts if part["name"] == process))

    def kill(self, process: str) -> None:
        """SIGKILL, as a crash would."""
        os.kill(self.pid(process), signal.SIGKILL)


def start() -> Installation:
    """Bootstrapped, started, its machine ready. What an earlier run left is reused, or stopped and replaced."""
    environment = {**os.environ, "MALBOX_STATE": str(STATE)}
    subprocess.run(
        [str(CHECKOUT / "deploy" / "bootstrap.sh")],
        env=environment,
        check=True,
        timeout=UP_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    here = Installation(STATE)
    said = here.malbox("up", timeout_s=UP_TIMEOUT_S)
    assert said.code == 0, said
    here.wait_until_ready()
    return here


def stop(here: Installation) -> None:
    """Nothing of it runs, and its database is gone; the venv and the image stay for the next run."""
    said = here.malbox("down", timeout_s=120)
    assert said.code == 0, said
    for name in ("postgres", "rabbitmq", "blobs", "machines", "log"):
        shutil.rmtree(here.state / name, ignore_errors=True)
