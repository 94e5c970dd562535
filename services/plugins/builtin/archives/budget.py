"""What unpacking may cost. Every byte that comes out of an archive is counted here while it comes out."""

from dataclasses import dataclass, field

MIB = 1024 * 1024


class BudgetSpent(Exception):
    """A budget of the whole run is used up."""


class ArchiveSpent(Exception):
    """One archive, or one file of it, used up what it may; the others go on."""


@dataclass
class Budget:
    """Bounds, and what is used of them. A bound that was met is in `exceeded` with the first place where it was."""

    total_bytes: int = 192 * MIB
    file_bytes: int = 60 * MIB
    entries: int = 10_000
    children: int = 60
    depth: int = 6
    ratio: int = 250
    ratio_floor_bytes: int = 8 * MIB  # below this, a high ratio is a file of zeros, not an attack
    exceeded: list[dict[str, object]] = field(default_factory=list)
    used_bytes: int = 0
    used_entries: int = 0

    def entry(self, where: str) -> None:
        """One more entry was met. Raises BudgetSpent."""
        self.used_entries += 1
        if self.used_entries > self.entries:
            raise self._spent("entries", self.entries, where)

    def write(self, size: int, *, of_file: int, of_archive: int, packed: int, where: str) -> None:
        """`size` more bytes came out; the counts of its file and of its archive include them.

        Raises BudgetSpent, or ArchiveSpent for a bound that this file or this archive met alone.
        """
        self.used_bytes += size
        if of_archive > max(self.ratio_floor_bytes, packed * self.ratio):
            self.note("ratio", self.ratio, where)
            raise ArchiveSpent(f"{where}: unpacks to more than {self.ratio} times its size")
        if self.used_bytes > self.total_bytes:
            raise self._spent("bytes", self.total_bytes, where)
        if of_file > self.file_bytes:
            self.note("file_bytes", self.file_bytes, where)
            raise ArchiveSpent(f"{where}: a file of more than {self.file_bytes} bytes")

    def has_depth(self, depth: int, where: str) -> bool:
        """Whether a container at this depth may be opened."""
        if depth > self.depth:
            self.note("depth", self.depth, where)
        return depth <= self.depth

    def has_child(self, count: int, where: str) -> bool:
        """Whether one more file may be handed out."""
        if count >= self.children:
            self.note("children", self.children, where)
        return count < self.children

    def note(self, budget: str, limit: float, where: str) -> None:
        """The bound was met there."""
        if not any(one["budget"] == budget for one in self.exceeded):
            self.exceeded.append({"budget": budget, "limit": limit, "where": where})

    def _spent(self, budget: str, limit: float, where: str) -> BudgetSpent:
        self.note(budget, limit, where)
        return BudgetSpent(f"{where}: more than {limit} {budget}")
