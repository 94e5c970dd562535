"""Simulations beside each other, one process for each processor. What a seed comes to does not depend on it."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation.run import Outcome, Simulation


def simulations(processes: int | None = None) -> ProcessPoolExecutor:
    """A pool of so many processes, by default one for each processor that this process may use.

    They are spawned, not forked: whoever asks may run threads.
    """
    return ProcessPoolExecutor(processes or len(os.sched_getaffinity(0)), mp_context=get_context("spawn"))


def outcome_of(seed: int) -> Outcome:
    """What the seed came to."""
    return Simulation(seed).run()
