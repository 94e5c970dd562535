"""Every fault of a server, link, clock or driver by name: `python -m tests.crash.harms [NAME...]`, all without a name.

The short form of each is a test; this is the long one. Stops at the first after which a promise does not hold.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from deploy.local.state import SERVICES, DeployError
from tests.bench.wire import Refused
from tests.crash import faults
from tests.crash.ground import Ground, ground
from tests.crash.runs import Arena, PromiseBroken


@dataclass(frozen=True)
class Harm:
    """One fault: what is done, in the long form and in the short one (None: only the long one is quick enough)."""

    long: Callable[[Arena], Awaitable[str]]
    short: Callable[[Arena], Awaitable[str]] | None


HARMS: dict[str, Harm] = {
    "broker-killed": Harm(lambda on: faults.broker_killed(on, 20), lambda on: faults.broker_killed(on, 2)),
    "broker-wiped": Harm(faults.broker_wiped, None),
    "database-killed": Harm(lambda on: faults.database_killed(on, 20), lambda on: faults.database_killed(on, 2)),
    "database-full": Harm(lambda on: faults.database_full(on, 20), lambda on: faults.database_full(on, 4)),
    "database-slow": Harm(lambda on: faults.database_slow(on, 60), lambda on: faults.database_slow(on, 4)),
    "database-restored": Harm(lambda on: faults.database_restored(on, 6), lambda on: faults.database_restored(on, 2)),
    "link-cut-after-commit": Harm(
        lambda on: faults.link_cut_after_commit(on, 60), lambda on: faults.link_cut_after_commit(on, 5)
    ),
    "driver-stopped": Harm(lambda on: faults.driver_stopped(on, 10), lambda on: faults.driver_stopped(on, 1)),
    **{
        f"clock-of-{service}": Harm(
            lambda on, service=service: faults.clock_jumped(on, service, 8),  # type: ignore[misc]
            lambda on, service=service: faults.clock_jumped(on, service, 1),  # type: ignore[misc]
        )
        for service in SERVICES
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.harms", description="Does harm to servers and links.")
    parser.add_argument("names", nargs="*", choices=[*HARMS, []], help="which; all when none is named")
    with ground() as made:
        return asyncio.run(_all(made, parser.parse_args(argv).names or list(HARMS)))


async def _all(made: Ground, names: Sequence[str]) -> int:
    async with Arena.on(made) as arena:
        for name in names:
            began = time.monotonic()
            try:
                said = await HARMS[name].long(arena)
            except (PromiseBroken, Refused, DeployError) as fault:
                _say(f"BROKEN {name}: {fault}\nagain: .malbox/venv/bin/python -m tests.crash.harms {name}")
                return 1
            _say(f"{name}: {said}; {time.monotonic() - began:.0f} s")
    _say(f"{len(names)} faults: {', '.join(names)}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
