"""How often each part ended soon after its start, one time after the other: told by the supervisor, read by `up`."""

from deploy.local.state import State, write_private

LOOPING_AFTER = 3


def note(state: State, name: str, in_a_row: int) -> None:
    """The part has ended so many times in a row; 0: it runs steadily."""
    file = state.run / f"{name}.crashes"
    if in_a_row == 0:
        file.unlink(missing_ok=True)
    else:
        write_private(file, f"{in_a_row}\n", mode=0o644)


def count(state: State, name: str) -> int:
    """How often the part has ended in a row since the supervisor has watched it."""
    try:
        return int((state.run / f"{name}.crashes").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def is_looping(state: State, name: str) -> bool:
    """Whether waiting for the part is pointless: what it logged says why."""
    return count(state, name) >= LOOPING_AFTER
