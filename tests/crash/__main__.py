"""Processes die at crash points chosen by a seed, run after run: `python -m tests.crash --count 200 --seed 0`.

Stops at the first run after which a promise does not hold, with the command that shows it again.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from deploy.local.state import DeployError
from tests.bench.wire import Refused
from tests.crash.cases import case_of
from tests.crash.ground import Ground, ground
from tests.crash.runs import Arena, Figures, PromiseBroken


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every run ended well."""
    asked = _parser().parse_args(argv)
    with ground() as made:
        return asyncio.run(_runs(made, asked.seed, asked.count))


async def _runs(made: Ground, seed: int, count: int) -> int:
    figures = Figures()
    async with Arena.on(made) as arena:
        for case in map(case_of, range(seed, seed + count)):
            try:
                survived = await arena.run(case)
            except (PromiseBroken, Refused, DeployError) as fault:
                _say(f"{figures.table()}\nBROKEN {fault}")
                _say(f"again: .malbox/venv/bin/python -m tests.crash --seed {case.seed} --count 1")
                return 1
            figures.survived.append(survived)
            _say(f"{case}: at rest after {survived.recovery_s:.1f} s, {', '.join(survived.outcomes)}")
            for reason in survived.quarantined:
                _say(f"  a machine was quarantined: {reason}")
    _say(figures.table())
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description="Kills services at crash points.")
    parser.add_argument("--count", type=int, default=200, help="how many runs (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the first run (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
