"""What must be looked at again: each once, however often it changes, and nobody waits behind one that never rests."""

import asyncio

import pytest

from services.machines.network.doubts import Doubts


@pytest.mark.promise("P22")
async def test_a_storm_of_changes_is_one_doubt_for_each_machine() -> None:
    """Any number of changes takes as much room as there are machines, and the egress namespace."""
    doubts = Doubts()
    for number in range(30_000):
        doubts.about(f"m{number % 3}")
        doubts.about(None)
    assert len(doubts) == 4
    assert [await doubts.oldest() for _ in range(4)] == ["m0", None, "m1", "m2"]
    assert len(doubts) == 0


@pytest.mark.promise("P22")
async def test_what_changes_while_it_is_looked_at_is_looked_at_again_after_the_others() -> None:
    """A machine that never rests is looked at in its turn."""
    doubts = Doubts()
    doubts.about("restless")
    doubts.about("other")
    seen = []
    for _ in range(3):
        seen.append(await doubts.oldest())
        doubts.about("restless")
    assert seen == ["restless", "other", "restless"]


async def test_whoever_asks_waits_until_there_is_a_doubt() -> None:
    """The first doubt is handed over as soon as it is raised."""
    doubts = Doubts()
    asking = asyncio.create_task(doubts.oldest())
    await asyncio.sleep(0)
    assert not asking.done()
    doubts.about("m")
    assert await asyncio.wait_for(asking, 10) == "m"
