"""The gate that lets one message be handled alone."""

import asyncio

from services.chassis.suspects import Gate


async def test_alone_means_that_nobody_is_inside() -> None:
    """Whoever is inside is waited for, whoever comes later waits."""
    gate = Gate()
    order: list[str] = []
    leave = asyncio.Event()

    async def shared(name: str) -> None:
        async with gate.shared():
            order.append(f"{name} in")
            await leave.wait()
            order.append(f"{name} out")

    async def alone() -> None:
        async with gate.alone():
            order.append("alone in")
            await asyncio.sleep(0)
            order.append("alone out")

    async with asyncio.TaskGroup() as group:
        group.create_task(shared("first"))
        group.create_task(shared("second"))
        await asyncio.sleep(0)
        group.create_task(alone())
        await asyncio.sleep(0)
        group.create_task(shared("late"))
        await asyncio.sleep(0)
        assert order == ["first in", "second in"]
        leave.set()
    assert order[2:4] == ["first out", "second out"]
    assert order[4:] == ["alone in", "alone out", "late in", "late out"]


async def test_a_failure_inside_opens_the_gate_again() -> None:
    """Neither way of being inside is left behind by an error."""
    gate = Gate()
    for way in (gate.shared, gate.alone):
        try:
            async with way():
                raise ValueError  # noqa: TRY301
        except ValueError:
            pass
    async with asyncio.timeout(5), gate.alone():
        pass
