"""The deployment from the command line.

    python -m deploy.local up|down|status|doctor [--json]

Exit status: 0 done, 2 wrong usage, 3 not running or not ready, 4 refused, with the reason on standard error.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.local.doctor import doctor
from deploy.local.down import down
from deploy.local.state import DeployError, State, locate
from deploy.local.status import status
from deploy.local.up import up

DONE, NOT_RUNNING, REFUSED = 0, 3, 4


def main(argv: list[str] | None = None) -> int:
    """One verb; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="Malbox on this machine.")
    parser.add_argument("verb", choices=sorted(VERBS))
    parser.add_argument("--json", action="store_true", help="say it as JSON")
    arguments = parser.parse_args(argv)
    try:
        return VERBS[arguments.verb](locate(Path.cwd()), arguments.json)
    except DeployError as error:
        print(f"malbox: {error}", file=sys.stderr)
        return REFUSED


def _up(state: State, as_json: bool) -> int:  # noqa: FBT001 - one signature for all verbs
    started = up(state, _to_stderr)
    _say(
        started, as_json, f"Malbox is ready at {started.url} after {started.took_s:.1f} s (token: {started.token_file})"
    )
    return DONE


def _down(state: State, as_json: bool) -> int:  # noqa: FBT001
    stopped = down(state, _to_stderr)
    _say(stopped, as_json, "Malbox is stopped." if stopped.was_running else "Malbox was not running.")
    return DONE


def _status(state: State, as_json: bool) -> int:  # noqa: FBT001
    found = status(state)
    lines = [f"{found.url}   {found.state_dir}"]
    for part in found.parts:
        sign = "ready" if part.is_ready else "NOT READY"
        lines.append(f"{part.name:<11} {sign:<10} {part.pid or '-':>8}  {part.since_s or 0:>9.1f} s  {part.detail}")
    _say(found, as_json, "\n".join(lines))
    return DONE if found.is_ready else NOT_RUNNING


def _doctor(state: State, as_json: bool) -> int:  # noqa: FBT001
    findings = doctor(state)
    lines = [
        f"{one.level:<6} {one.what}: {one.found}" + (f"\n       -> {one.remedy}" if one.remedy else "")
        for one in findings
    ]
    _say(findings, as_json, "\n".join(lines))
    return REFUSED if any(one.level == "fault" for one in findings) else DONE


def _say(content: Any, as_json: bool, text: str) -> None:  # noqa: FBT001
    print(json.dumps(content, default=_plain) if as_json else text)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


def _to_stderr(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


VERBS: dict[str, Callable[[State, bool], int]] = {"up": _up, "down": _down, "status": _status, "doctor": _doctor}

if __name__ == "__main__":
    sys.exit(main())
