"""Who acted last for a machine where it runs, and the rule by which whoever came before is refused. Pure.

Of two epochs the later one is obeyed. Of one epoch's workers it is the later claim: one that stood still while another
took its work over has a valid epoch still. Who holds no claim, for it only watches, acts for the epoch.
"""

from typing import NamedTuple

from services.machines.errors import StaleClaim, StaleEpoch


class Claim(NamedTuple):
    """Which claim of which work: the store numbers work as it is asked for, and the claims of each from 1."""

    work: int = 0
    attempt: int = 0

    def __str__(self) -> str:
        return f"{self.work}.{self.attempt}"


class Fence(NamedTuple):
    """The latest epoch that was acted for, and the latest claim within it; as it is before anybody acted."""

    epoch: int = -1
    claim: Claim = Claim()

    def __str__(self) -> str:
        """As it is kept: three numbers."""
        return f"{self.epoch} {self.claim.work} {self.claim.attempt}"

    @classmethod
    def read(cls, text: str) -> "Fence":
        """What was kept. One number alone is an epoch in which nobody's claim was known. Raises ValueError."""
        match [int(word) for word in text.split()]:
            case [epoch]:
                return cls(epoch)
            case [epoch, work, attempt]:
                return cls(epoch, Claim(work, attempt))
            case numbers:
                raise ValueError(f"{len(numbers)} numbers are no fence")

    def refuse_older(self, machine_id: str, epoch: int, claim: Claim | None) -> None:
        """Nothing acted for a later epoch, nor under a later claim of this one. Raises StaleEpoch, StaleClaim."""
        if epoch < self.epoch:
            raise StaleEpoch(f"epoch {epoch} is over: {machine_id} is at epoch {self.epoch}")
        if epoch == self.epoch and claim is not None and claim < self.claim:
            raise StaleClaim(f"claim {claim} of epoch {epoch} is over: {machine_id} is at claim {self.claim}")

    def raised(self, epoch: int, claim: Claim | None) -> "Fence":
        """How it stands once that was acted for; it never falls."""
        return max(self, Fence(epoch, claim or Claim()))


UNTOUCHED = Fence()
"""Nobody ever acted."""
