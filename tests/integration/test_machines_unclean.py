"""Each sign that a restored machine is not clean keeps it from being ready, and is the reason that is shown."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.machines.ports import Attestation, Isolation
from tests.integration.machines_bench import M1, Bench, bench, release_order, spec

pytestmark = pytest.mark.integration


@pytest.fixture(name="made")
async def made_fixture(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """A machine with an analysis card, leased: what it is restored to next is to be verified."""
    async with bench(database_url, tmp_path, spec(M1, routes=("none", "simulated"))) as one:
        await one.reconcile()
        await one.is_in(M1, "ready")
        await one.leased(M1)
        yield one


def _shows(made: Bench, changed: dict[str, Any]) -> None:
    honest = made.host.attest

    async def attest(*arguments: Any, **named: Any) -> Attestation:
        return replace(await honest(*arguments, **named), **changed)

    made.host.attest = attest  # type: ignore[method-assign]


def _lets_frames_through(made: Bench) -> None:
    honest = made.network.verify

    async def verify(*arguments: Any, **named: Any) -> Isolation:
        return replace(await honest(*arguments, **named), passed=3)

    made.network.verify = verify  # type: ignore[method-assign]


SIGNS: dict[str, tuple[Callable[[Bench], None], str]] = {
    "a canary": (
        lambda made: _shows(made, {"canaries": ("disk", "memory")}),
        "canary of an earlier lease: disk, memory",
    ),
    "an agent that was used": (lambda made: _shows(made, {"is_fresh": False}), "was enrolled before"),
    "frames that got out": (_lets_frames_through, "3 frames of a guest that nobody leased were let through"),
}


@pytest.mark.promise("P7", "P8", "P23")
@pytest.mark.parametrize("sign", SIGNS)
async def test_a_restored_machine_that_is_not_clean_is_never_ready(sign: str, made: Bench) -> None:
    """It is restored anew, three times; then it is quarantined, and nobody ever had it."""
    show, reason = SIGNS[sign]
    show(made)
    await made.hear(release_order(await made.load(M1)))
    machine = await made.is_in(M1, "quarantined")
    assert reason in machine.quarantine_reason
    topics = [row["topic"] for row in await made.store.fetch("SELECT topic FROM events ORDER BY version")]
    assert topics.count("machine:clean-verified") == 1, "the control: it was clean before its lease"
    assert topics.count("machine:verification-failed") == 2


async def test_the_same_machine_without_any_such_sign_is_ready_again(made: Bench) -> None:
    """The control of all of them."""
    await made.hear(release_order(await made.load(M1)))
    assert (await made.is_in(M1, "ready")).failures == 0
