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
    return request
trial.trial = busy
sys.exit(trial.main())
"""


def test_a_line_of_the_log_is_no_part_of_the_answer() -> None:
    """A sandbox that warns, as on a busy host, is still understood; the warning stands on standard error."""
    ended = subprocess.run(
        (sys.executable, "-c", LOGS), input=b'{"a": 1}', cwd=ROOT, capture_output=True, timeout=60, check=True
    )
    assert json.loads(ended.stdout) == {"a": 1}
    assert b"host_was_slow" in ended.stderr
