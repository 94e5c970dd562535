"""The faults: each is drawn from the seed, counted when it happens, and over when the time of faults is over."""

from tests.simulation.chaos import actors, backends, hosts, networks, outside, people  # noqa: F401 - faults are known by being imported
from tests.simulation.chaos.core import FAULTS, Chaos

__all__ = ["FAULTS", "Chaos"]
