"""The answer of a trial is all that stands on its standard output."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LOGS = """
import sys, structlog
from services.plugins import trial
async def busy(request, place):
    structlog.get_logger().warning("host_was_slow")
    if request["a"] == 2:
        raise trial.SandboxUnavailable("no sandbox")
    return request
trial.trial = busy
sys.exit(trial.main())
"""


def test_a_line_of_the_log_is_no_part_of_the_answer() -> None:
    """A sandbox that warns, as on a busy host, is still understood; the warning stands on standard error."""
    ended = answered(1)
    assert (ended.returncode, json.loads(ended.stdout)) == (0, {"a": 1})
    assert b"host_was_slow" in ended.stderr


def test_a_line_of_the_log_is_no_part_of_the_reason() -> None:
    """Whoever is refused reads why, and nothing else."""
    ended = answered(2)
    assert (ended.returncode, ended.stdout) == (4, b"no sandbox\n")
    assert b"host_was_slow" in ended.stderr


def answered(what: int) -> subprocess.CompletedProcess[bytes]:
    """How a trial ended that was asked for that."""
    asked = json.dumps({"a": what}).encode()
    return subprocess.run(
        (sys.executable, "-c", LOGS), input=asked, cwd=ROOT, capture_output=True, timeout=60, check=False
    )
