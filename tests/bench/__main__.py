"""`make bench`: measures Malbox on this machine and prints each figure beside the peers' and the goal.

    python -m tests.bench [ROW...]    floor throughput submissions hop replay queue reconcile sandbox filesystem guest;
                                      else all

Servers, services and guests are real and private (`<state>/trial`, gone afterwards); only the rows that say so use the
instant hypervisor. JSON goes to `<state>/bench/<instant>.json`. Nothing asserts on time.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from deploy.local import accounts, images
from deploy.local.installation import Installation
from deploy.local.state import DeployError, State, locate
from services.chassis.store import StoreUnavailable
from tests.bench import records, tasks
from tests.bench.bed import Bed, Fleet, bed, servers_only
from tests.bench.filesystem import filesystem
from tests.bench.floor import floor
from tests.bench.guest import guest
from tests.bench.hop import hop
from tests.bench.measure import RUNS_MIN, Failure, Row, table
from tests.bench.reconciling import reconciling
from tests.bench.sandboxed import sandboxed
from tests.bench.throughput import analyses, submissions
from tests.bench.wire import Refused

CHECKOUT = Path(__file__).resolve().parents[2]
INSTANT_MACHINES = 40
ANALYSES = 400
SUBMISSIONS = 1000
ROWS = ("floor", "throughput", "submissions", "hop", "replay", "queue", "reconcile", "sandbox", "filesystem", "guest")
FAULTS = (DeployError, Refused, StoreUnavailable, TimeoutError, OSError, ExceptionGroup)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, keeps. 1 when a row could not be measured."""
    asked = _parser().parse_args(argv)
    state = locate(CHECKOUT)
    if not (state.app / "digest").exists():
        _tell(f"nothing is set up at {state.root}: run `make bench`")
        return 2
    accounts.ensure()
    found: list[Row | Failure] = []
    chosen = asked.rows or ROWS
    for measure in (_sandbox_rows, _instant_rows, _server_rows, _guest_rows):
        found += measure(state, chosen, asked)
    sys.stdout.write(f"{table(found)}\nkept in {keep(state, found)}\n")
    return int(any(isinstance(one, Failure) for one in found))


def keep(state: State, found: Sequence[Row | Failure]) -> Path:
    """Everything that was measured is in a file named for the instant; its path."""
    directory = state.root / "bench"
    directory.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = directory / f"{now:%Y%m%dT%H%M%SZ}.json"
    content = {
        "measured_at": now.isoformat(),
        "processors": os.cpu_count(),
        "load_average": os.getloadavg(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "rows": [one.as_json() for one in found],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _sandbox_rows(_state: State, chosen: Sequence[str], asked: argparse.Namespace) -> list[Row | Failure]:
    found: list[Row | Failure] = []
    if "sandbox" in chosen:
        with _reported("sandbox", found):
            found += asyncio.run(_as_coroutine(sandboxed(asked.runs)))
    return found


def _instant_rows(state: State, chosen: Sequence[str], asked: argparse.Namespace) -> list[Row | Failure]:
    if not {"floor", "throughput", "submissions"} & set(chosen):
        return []
    found: list[Row | Failure] = []
    with _reported("instant bed", found), bed(state, Fleet(INSTANT_MACHINES, is_instant=True)) as made:
        steps: dict[str, Callable[[Bed], Awaitable[Sequence[Row]]]] = {
            "floor": lambda on: floor(on, asked.runs),
            "throughput": lambda on: _both_throughputs(on, asked),
            "submissions": lambda on: _one(submissions(on, asked.runs, SUBMISSIONS)),
        }
        for name, step in steps.items():
            if name in chosen:
                with _reported(name, found):
                    found += asyncio.run(_as_coroutine(step(made)))
    return found


def _server_rows(state: State, chosen: Sequence[str], asked: argparse.Namespace) -> list[Row | Failure]:
    steps: dict[str, Callable[[Installation], Sequence[Row]]] = {
        "hop": lambda here: hop(here, asked.runs),
        "replay": lambda here: asyncio.run(_one(records.replay(here, asked.runs))),
        "queue": lambda here: asyncio.run(records.queue(here, asked.runs)),
        "reconcile": lambda here: asyncio.run(reconciling(here, asked.runs)),
    }
    found: list[Row | Failure] = []
    if not set(steps) & set(chosen):
        return found
    with _reported("servers", found), servers_only(state) as here:
        for name, step in steps.items():
            if name in chosen:
                with _reported(name, found):
                    found += step(here)
    return found


def _guest_rows(state: State, chosen: Sequence[str], asked: argparse.Namespace) -> list[Row | Failure]:
    found: list[Row | Failure] = []
    steps = {"filesystem": filesystem, "guest": guest}  # the last one stops services of the bed
    if not set(steps) & set(chosen):
        return found
    with _reported("real guest's bed", found):
        state.prepare()  # where nothing was ever started, there is no directory for the log of an image's build
        images.ensure(state)
        with bed(state, Fleet(1, is_instant=False)) as made:
            for name, step in steps.items():
                if name in chosen:
                    with _reported(name, found):
                        found += asyncio.run(step(made, asked.runs))
    return found


async def _both_throughputs(on: Bed, asked: argparse.Namespace) -> list[Row]:
    return [
        await analyses(on, asked.runs, asked.analyses, tasks.GUEST_ONLY),
        await analyses(on, asked.runs, asked.analyses, tasks.WHOLE),
    ]


async def _one(row: Awaitable[Row]) -> list[Row]:
    return [await row]


async def _as_coroutine(rows: Awaitable[Sequence[Row]]) -> Sequence[Row]:
    return await rows


@contextlib.contextmanager
def _reported(name: str, found: list[Row | Failure]) -> Iterator[None]:
    _tell(f"measuring: {name}")
    try:
        yield
    except FAULTS as fault:
        found.append(Failure(name, f"{type(fault).__name__}: {fault}"))
        _tell(f"  failed: {fault}")


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures Malbox on this machine.")
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="which rows; all when none is named")
    parser.add_argument("--runs", type=int, default=RUNS_MIN, help=f"runs of each row (default {RUNS_MIN})")
    parser.add_argument("--analyses", type=int, default=ANALYSES, help=f"tasks per throughput run (default {ANALYSES})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
