"""Any service or server may die in the middle of a task: the task ends well, under the same id."""

from pathlib import Path

import pytest

from tests.acceptance import samples
from tests.acceptance.installation import Installation

pytestmark = [pytest.mark.acceptance, pytest.mark.promise("P3"), pytest.mark.timeout(600)]
SAMPLE = "#!/bin/sh\necho before > /tmp/before\nsleep 8\necho after > /tmp/after\n"


@pytest.mark.parametrize("process", ["intake", "scheduler", "machines", "plugins", "results", "rabbitmq", "postgres"])
def test_a_task_outlives_the_death_of_any_process(installation: Installation, tmp_path: Path, process: str) -> None:
    """Killed while the sample runs; supervised back; the same task completes with its evidence."""
    installation.wait_until_ready()
    sample = samples.write(tmp_path / "slow.sh", SAMPLE + f"# {process}\n")
    task = installation.submit(sample, "--timeout", "20")
    installation.wait(task, ("running",))
    installation.kill(process)
    assert installation.wait(task) == "completed", installation.task(task)
    written = {entry["path"] for entry in installation.report(task)["files"]}
    assert "/tmp/after" in written
    installation.wait_until_ready()
