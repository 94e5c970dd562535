"""The same seed is the same run, bit by bit, in whatever process."""

import os
import subprocess
import sys

from tests.simulation.run import Simulation

SEED = 4
"""An eventful one."""


def trace_in_another_process(hash_seed: str) -> str:
    """The trace of the seed as a process of its own prints it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seeds", "1", "--start", str(SEED)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def test_a_seed_replays_bit_by_bit_in_this_process_and_in_others() -> None:
    """Three runs under three orders of hashing have one trace; another seed has another."""
    trace = f"trace {Simulation(SEED).run().trace:016x}"
    assert trace_in_another_process("1") == trace_in_another_process("4242") == trace
    assert f"trace {Simulation(SEED + 1).run().trace:016x}" != trace
