"""The judge of the crash runs condemns: a defence that is taken out is missed, and the verdict names what was lost."""

import asyncio

import pytest

from tests.crash.cases import Case
from tests.crash.ground import Ground, ground, set_up
from tests.crash.mutants import MUTANTS, Mutant, source_of
from tests.crash.runs import Arena, PromiseBroken

pytestmark = [pytest.mark.timeout(300), pytest.mark.promise("P3", "P12", "P15")]
SOON_S = 30.0
"""Before the sixty seconds after which a second defence says everything again."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_loss_is_noticed_when(mutant: Mutant) -> None:
    """One process dies once, where the missing defence was needed."""

    async def once(made: Ground) -> None:
        async with Arena.on(made) as arena:
            arena.recovery_max_s = SOON_S
            await arena.run(Case(0, (mutant.death,)))

    with (
        source_of(mutant, set_up()) as app,
        ground(name="mutants", app=app) as made,
        pytest.raises(PromiseBroken, match=mutant.verdict),
    ):
        asyncio.run(once(made))
