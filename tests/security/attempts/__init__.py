"""What hostile code tries: the plugin of the red team, and the same attempts without a sandbox.

An attempt returns a proof that it went through, or raises. `python -m attempts NAME TARGETS` makes one outside, where
it must go through; as a package of a plugin it makes one inside. Standard library only; numbers are those of x86-64.
"""

from . import files, kernel, mounts, processes, rights, talk  # noqa: F401 - attempts are known by being imported
from .known import ATTEMPTS, NEEDS_NAMESPACE, NEEDS_ROOT, outcome, run

__all__ = ["ATTEMPTS", "NEEDS_NAMESPACE", "NEEDS_ROOT", "outcome", "run"]
