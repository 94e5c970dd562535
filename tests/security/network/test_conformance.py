"""The promises of the port GuestNetwork, kept by the real helper and by the fake in memory alike."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from deploy.local.state import MACHINE_USER
from services.machines.adapters.memory_network import MemoryNetwork
from services.machines.domain.fence import Claim
from services.machines.errors import IsolationBroken, NetworkRefused, NetworkUnavailable, StaleClaim, StaleEpoch
from services.machines.network.words import FENCES_MAX
from services.machines.ports import GuestNetwork
from tests.security.network.ends import as_user
from tests.security.network.lab import first, laboratory, watched

pytestmark = [pytest.mark.timeout(120)]
LEASE = "lea_" + "3" * 32


@dataclass
class Made:
    """A network of either kind, and how somebody breaks into it."""

    network: GuestNetwork
    break_in: Callable[[str], Awaitable[None]]
    is_watched: Callable[[], Awaitable[None]]


@pytest.fixture(name="made", params=["memory", "helper"])
async def made_fixture(request: pytest.FixtureRequest) -> AsyncIterator[Made]:
    """One of the two."""
    if request.param == "memory":
        fake = MemoryNetwork(("none", "simulated"))

        async def spoil(machine_id: str) -> None:
            fake.break_isolation(machine_id, "spoilt")

        yield Made(fake, spoil, lambda: asyncio.sleep(0))
        return
    async with laboratory(has_egress=False) as lab:

        async def flush(_machine_id: str) -> None:
            with as_user("root"):
                inside = lab.namespace_of_guest()
                await inside.load("flush ruleset\n")
                inside.close()

        with as_user(MACHINE_USER):
            yield Made(lab.network, flush, lambda: watched(lab))


async def test_what_can_be_opened_is_said(made: Made) -> None:
    """Exactly these."""
    assert await made.network.routes() == ("none", "simulated")


async def test_a_network_lives_from_plug_to_close(made: Made) -> None:
    """Seen after each step; the digest is the route's and the same for as long as nothing changes."""
    network = made.network
    await network.plug("m", epoch=1)
    plugged = await network.verify("m", epoch=1)
    opened = await network.open("m", epoch=2, lease_id=LEASE, route="simulated")
    assert opened.rules_sha256 != plugged.rules_sha256
    assert (await network.verify("m", epoch=2)).rules_sha256 == opened.rules_sha256
    assert [(one.machine_id, one.epoch, one.route) for one in await network.observe()] == [("m", 2, "simulated")]
    taken = await network.seal("m", epoch=3)
    assert taken is not None
    assert (taken.lease_id, taken.packets) == (LEASE, 0)
    for _ in range(2):
        await network.close("m", epoch=3)
    assert await network.observe() == []


async def test_nothing_is_recorded_on_the_route_none(made: Made) -> None:
    """There is nothing to record: nothing passes."""
    await made.network.plug("m", epoch=1)
    assert await made.network.seal("m", epoch=1) is None
    await made.network.open("m", epoch=2, lease_id=LEASE, route="none")
    assert await made.network.seal("m", epoch=2) is None


async def test_a_later_plug_takes_the_place_of_an_open_network(made: Made) -> None:
    """Nothing of the lease before is in it."""
    await made.network.plug("m", epoch=1)
    await made.network.open("m", epoch=2, lease_id=LEASE, route="simulated")
    await made.network.plug("m", epoch=3)
    assert [(one.epoch, one.route) for one in await made.network.observe()] == [(3, "none")]


@pytest.mark.promise("G4")
async def test_an_earlier_owner_is_refused(made: Made) -> None:
    """Whatever it asks for."""
    network = made.network
    await network.plug("m", epoch=2)
    for call in (
        network.plug("m", epoch=1),
        network.open("m", epoch=1, lease_id=LEASE, route="none"),
        network.verify("m", epoch=1),
        network.seal("m", epoch=1),
        network.close("m", epoch=1),
    ):
        with pytest.raises(StaleEpoch):
            await call


@pytest.mark.promise("P2")
async def test_of_one_epochs_workers_the_latest_is_obeyed(made: Made) -> None:
    """Whatever the earlier one asks for; whoever only watches is no worker, and is heard."""
    network, first, second = made.network, Claim(7, 1), Claim(7, 2)
    for claim in (first, second, second):
        await network.plug("m", epoch=2, claim=claim)
    for call in (
        network.plug("m", epoch=2, claim=first),
        network.open("m", epoch=2, lease_id=LEASE, route="none", claim=first),
        network.verify("m", epoch=2, claim=first),
        network.seal("m", epoch=2, claim=first),
        network.close("m", epoch=2, claim=first),
    ):
        with pytest.raises(StaleClaim, match=r"claim 7\.1 of epoch 2 is over"):
            await call
    await network.verify("m", epoch=2)
    await network.open("m", epoch=3, lease_id=LEASE, route="none", claim=first)
    assert [(one.machine_id, one.epoch) for one in await network.observe()] == [("m", 3)]


@pytest.mark.promise("G4", "P4")
async def test_the_fences_say_how_far_each_machine_has_come(made: Made) -> None:
    """Whoever acted, with whatever result, of however many machines; whoever only looks moves none."""
    network = made.network
    await network.plug("m", epoch=2)
    await network.verify("m", epoch=9)
    names = [f"n{number}" for number in range(FENCES_MAX + 1)]
    for name in names:
        await network.close(name, epoch=len(name))
    await network.close("n0", epoch=7)
    assert await network.fences() == {"m": 2, **{name: len(name) for name in names}, "n0": 7}


@pytest.mark.promise("P22")
async def test_a_breach_says_of_which_epoch_and_lease_the_network_is(made: Made) -> None:
    """Whoever hears of it late knows whose guest got out; that a later owner asked for the packets hides nothing."""
    await made.network.plug("m", epoch=1)
    await made.network.open("m", epoch=2, lease_id=LEASE, route="simulated")
    await made.network.seal("m", epoch=3)
    watching = asyncio.create_task(first(made.network))
    await asyncio.sleep(0)  # it connects as who it is to be
    await made.is_watched()
    await made.break_in("m")
    async with asyncio.timeout(60):
        breach = await watching
    assert (breach.machine_id, breach.epoch, breach.lease_id) == ("m", 2, LEASE)


async def test_what_was_never_plugged_is_refused(made: Made) -> None:
    """It cannot be opened and cannot be verified; closing it is nothing."""
    with pytest.raises(NetworkRefused):
        await made.network.open("m", epoch=1, lease_id=LEASE, route="none")
    with pytest.raises(NetworkRefused):
        await made.network.verify("m", epoch=1)
    await made.network.close("m", epoch=1)


async def test_a_route_that_is_not_offered_cannot_be_opened(made: Made) -> None:
    """And the network is gone: half open is worse than none."""
    await made.network.plug("m", epoch=1)
    with pytest.raises(NetworkUnavailable):
        await made.network.open("m", epoch=2, lease_id=LEASE, route="internet")
    assert await made.network.observe() == []


@pytest.mark.promise("P23")
async def test_a_broken_network_is_neither_verified_nor_opened(made: Made) -> None:
    """Fails closed."""
    await made.network.plug("m", epoch=1)
    await made.break_in("m")
    with pytest.raises(IsolationBroken):
        await made.network.verify("m", epoch=1)
    with pytest.raises(IsolationBroken):
        await made.network.open("m", epoch=2, lease_id=LEASE, route="none")
