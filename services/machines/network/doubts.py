"""Whose network something changed in, to be looked at again: each once, however often and however fast it changes."""

import asyncio

Doubted = str | None
"""A machine, or None: the egress namespace, which everybody on the route internet shares."""


class Doubts:
    """Holds at most one doubt for each machine and one for the egress namespace; the oldest comes first."""

    def __init__(self) -> None:
        self._waiting: dict[Doubted, None] = {}
        self._is_any = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def about(self, doubted: Doubted) -> None:
        """It will be looked at, once more if it is being looked at now: what changed meanwhile may have been missed."""
        self._waiting.setdefault(doubted)
        self._is_any.set()

    async def oldest(self) -> Doubted:
        """The one that has waited longest, no longer waiting."""
        await self._is_any.wait()
        doubted = next(iter(self._waiting))
        del self._waiting[doubted]
        if not self._waiting:
            self._is_any.clear()
        return doubted
