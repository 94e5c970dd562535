"""Lifecycles of host plugins: what is started when, what serves whom, what ends, and what an operator sees of it."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from malbox.sdk.manifest import Manifest
from services.chassis import patience
from services.chassis.store import StoreUnavailable
from services.plugins import instances as instances_module
from services.plugins import keeper as keeper_module
from services.plugins.domain.occasion import Occasion
from services.plugins.errors import SandboxUnavailable
from services.plugins.policy import restarts
from services.plugins.policy.restarts import BACKOFF_MAX_S, FAULTS_MAX, NO_FAULTS
from services.plugins.quarantine import GivenUp, Quarantine
from tests.unit.plugins.instances_bench import DONE, FakeRunner, FakeSandbox, occasion, plugin, request, served, until


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes half a minute in a service takes an instant here."""
    monkeypatch.setattr(restarts, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(instances_module, "LINGER_S", 0.05)


def states(of: instances_module.Instances) -> list[str]:
    """What an operator sees, in order."""
    return [one.state for one in of.seen()]


async def test_a_persistent_plugin_waits_before_anybody_asks_and_serves_everybody() -> None:
    """One start, five runs of five tasks."""
    one, runner = plugin(), FakeRunner()
    async with served(runner, one, plugin("other", lifecycle="ephemeral")) as instances:
        await until(lambda: states(instances) == ["ready"])
        for number in range(5):
            assert await instances.use(one, occasion(str(number)), request(one)) == DONE
        assert [sandbox.runs for sandbox in runner.started] == [5]
        assert [seen.runs for seen in instances.seen()] == [5]


async def test_an_ephemeral_plugin_has_a_sandbox_for_each_run() -> None:
    """Nothing waits, nothing is used twice."""
    one, runner = plugin(lifecycle="ephemeral"), FakeRunner()
    async with served(runner, one) as instances:
        for _ in range(3):
            await instances.use(one, occasion(), request(one))
        assert [sandbox.runs for sandbox in runner.started] == [1, 1, 1]
        assert runner.alive == []


@pytest.mark.promise("D7")
@pytest.mark.parametrize(
    ("key", "others", "instances_started"),
    [
        ("task", [occasion(stage="post"), occasion("b")], 2),
        ("stage", [occasion(stage="post"), occasion("b")], 3),
        ("sample", [occasion("b"), occasion("c", sample="other")], 2),
        ("owner", [occasion("b"), occasion("c", owner="bob")], 2),
        ("owner", [occasion("a", owner=None), occasion("b", owner=None)], 3),
    ],
)
async def test_a_scoped_plugin_has_one_instance_for_each_value_of_its_key(
    key: str, others: list[Occasion], instances_started: int
) -> None:
    """Two runs of one occasion share it; whether another occasion does is the key's to say."""
    one, runner = plugin(lifecycle="scoped", key=key), FakeRunner()
    async with served(runner, one) as instances:
        for each in (occasion(), occasion(), *others):
            await instances.use(one, each, request(one))
        assert len(runner.started) == instances_started
        assert len(runner.alive) == instances_started


@pytest.mark.promise("D7")
async def test_a_scope_ends_with_the_last_stage_that_shares_it() -> None:
    """Two stages of a task hold it: it outlives the first, not the second. One of a stage is gone as the stage ends."""
    of_task, of_stage = plugin("task", lifecycle="scoped", key="task"), plugin("stage", lifecycle="scoped", key="stage")
    runner, static, post = FakeRunner(), occasion(), occasion(stage="post")
    async with served(runner) as instances:
        async with instances.holding(post):
            async with instances.holding(static):
                await instances.use(of_task, static, request(of_task))
                await instances.use(of_stage, static, request(of_stage))
                assert len(runner.alive) == 2
            assert [seen.plugin.name for seen in instances.seen()] == ["task"]
            await asyncio.sleep(0.15)
            await instances.use(of_task, post, request(of_task))
            assert [sandbox.runs for sandbox in runner.alive] == [2]
        await until(lambda: runner.alive == [])
        assert instances.seen() == []


async def test_scoped_instances_are_not_without_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the one that was idle for longest makes room."""
    monkeypatch.setattr(instances_module, "SCOPED_MAX", 3)
    one, runner = plugin(lifecycle="scoped", key="owner"), FakeRunner()
    async with served(runner) as instances:
        for owner in ("ann", "bob", "cyd", "ann", "dan"):
            await instances.use(one, occasion(owner=owner), request(one))
        await until(lambda: len(runner.alive) == 3)
        assert sorted(str(seen.scope) for seen in instances.seen()) == ["owner ann", "owner cyd", "owner dan"]


@pytest.mark.promise("D5")
async def test_busy_names_the_task_and_the_stage() -> None:
    """While it runs, of every lifecycle; what is ready names none."""
    kinds = [plugin("p"), plugin("e", lifecycle="ephemeral"), plugin("s", lifecycle="scoped", key="task")]
    runner = FakeRunner()
    async with served(runner, *kinds) as instances:
        await until(lambda: states(instances) == ["ready"])
        assert instances.seen()[0].occasion is None
        runner.gate.clear()
        async with asyncio.TaskGroup() as group:
            for number, each in enumerate(kinds):
                group.create_task(instances.use(each, occasion(str(number), stage="post"), request(each)))
            await until(lambda: runner.running == {"p", "e", "s"})
            shown = {(one.plugin.name, one.state, one.occasion) for one in instances.seen()}
            assert shown == {(each.name, "busy", occasion(str(n), stage="post")) for n, each in enumerate(kinds)}
            runner.gate.set()
        assert states(instances) == ["ready", "ready"]
        assert {one.occasion for one in instances.seen()} == {None}


@pytest.mark.promise("P37")
async def test_a_run_that_takes_its_instance_along_is_replaced_and_counts_against_nobody() -> None:
    """Ten times over: a hostile sample cannot have a plugin quarantined."""
    one, runner = plugin(), FakeRunner(is_fatal=True)
    async with served(runner, one) as instances:
        for _ in range(2 * FAULTS_MAX):
            assert (await instances.use(one, occasion(), request(one))).outcome == "timed_out"
        runner.is_fatal = False
        assert await instances.use(one, occasion(), request(one)) == DONE
        await until(lambda: states(instances) == ["ready"])


async def test_runs_that_meet_get_an_instance_each_up_to_the_bound() -> None:
    """Three runs at once over two places: two run, the third waits for the first to end."""
    one, runner = plugin(), FakeRunner()
    async with served(runner, one) as instances:
        await until(lambda: states(instances) == ["ready"])
        runner.gate.clear()
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(instances.use(one, occasion(str(number)), request(one)))
            await until(lambda: states(instances) == ["busy", "busy"])
            assert len(runner.started) == 2
            runner.gate.set()
        assert sum(sandbox.runs for sandbox in runner.started) == 3
        assert len(runner.started) == 2


async def test_what_does_not_become_ready_is_tried_again_and_then_serves() -> None:
    """Its own fault is forgotten by its first run that went well."""
    one, runner = plugin(), FakeRunner(failures=["no"] * (FAULTS_MAX - 1))
    async with served(runner, one) as instances:
        await until(lambda: states(instances) == ["ready"])
        assert runner.attempts == FAULTS_MAX
        assert await instances.use(one, occasion(), request(one)) == DONE


@pytest.mark.promise("D1")
async def test_a_crash_looper_is_quarantined_seen_and_mended_by_an_operator() -> None:
    """Five failures in a row end the attempts; a run then fails with the reason; being replaced begins anew."""
    one, runner = plugin(), FakeRunner(failures=["broken pipe"] * 99)
    async with served(runner, one) as instances:
        await until(lambda: states(instances) == ["quarantined"])
        assert runner.attempts == FAULTS_MAX
        report = await instances.use(one, occasion(), request(one))
        assert report.outcome == "failed"
        assert "quarantined: it failed 5 times in a row" in report.reason
        assert "broken pipe" in report.reason
        assert runner.attempts == FAULTS_MAX
        runner.failures.clear()
        assert await instances.replace("one")
        await until(lambda: states(instances) == ["ready"])
        assert not await instances.replace("unknown")


@pytest.mark.promise("D1")
@pytest.mark.parametrize("lifecycle", ["persistent", "scoped"])
async def test_a_quarantined_plugin_is_so_after_a_restart_until_it_is_replaced(lifecycle: str) -> None:
    """It is shown at once with the first reason and instant, and started by nobody; one whose files changed is."""
    key = "task" if lifecycle == "scoped" else None
    one, changed = (plugin(lifecycle=lifecycle, key=key, digest=digest) for digest in ("d1", "d2"))
    remembered = Quarantine()
    async with served(FakeRunner(failures=["broken pipe"] * 99), one, quarantine=remembered) as instances:
        while instances.given_up(one) is None:
            await instances.use(one, occasion(), request(one))
        before = instances.given_up(one)
    runner = FakeRunner()
    async with served(runner, one, quarantine=remembered) as instances:
        await until(lambda: instances.given_up(one) is not None)
        after = instances.given_up(one)
        assert before is not None
        assert after is not None
        assert (after.state, after.reason, after.since) == ("quarantined", before.reason, before.since)
        assert (await instances.use(one, occasion(), request(one))).outcome == "failed"
        assert runner.attempts == 0
        assert await instances.use(changed, occasion(), request(changed)) == DONE
        assert await instances.replace("one")
        assert instances.given_up(one) is None
        assert await instances.use(one, occasion(), request(one)) == DONE
    async with served(FakeRunner(), one, quarantine=remembered) as instances:
        assert instances.given_up(one) is None


@pytest.mark.promise("D1")
async def test_a_host_that_can_start_nothing_for_a_while_has_no_plugin_quarantined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is tried until it becomes ready, however often that takes."""
    monkeypatch.setattr(restarts, "BACKOFF_MAX_S", 0.02)
    one, runner = plugin(), FakeRunner(failures=[SandboxUnavailable("no control group") for _ in range(2 * FAULTS_MAX)])
    async with served(runner, one) as instances:
        await until(lambda: states(instances) == ["ready"])
        assert runner.attempts == 2 * FAULTS_MAX + 1
        assert instances.given_up(one) is None


@pytest.mark.promise("D1")
async def test_a_run_that_ends_well_does_not_end_the_quarantine_that_came_meanwhile() -> None:
    """Only an administrator does, or other files."""
    one, runner = plugin(), FakeRunner()
    async with served(runner, one) as instances:
        await until(lambda: states(instances) == ["ready"])
        runner.gate.clear()
        running = asyncio.create_task(instances.use(one, occasion(), request(one)))
        await until(lambda: states(instances) == ["busy"])
        runner.failures = ["broken pipe"] * FAULTS_MAX
        while instances.given_up(one) is None:
            await instances.use(one, occasion("b"), request(one))
        runner.gate.set()
        assert await running == DONE
        assert instances.given_up(one) is not None


async def test_who_lifts_a_quarantine_hears_at_once_that_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though somebody waits for the store with a quarantine to be stored."""
    monkeypatch.setattr(patience, "STORE_WAIT_S", 0.01)
    away = AsyncMock()
    away.fetch.side_effect = StoreUnavailable("it is away")
    quarantine, one = Quarantine(away), plugin(digest="d1")
    quarantine.put(one, GivenUp("one", "broken pipe", 5, datetime(2026, 1, 1, tzinfo=UTC)))
    saving = asyncio.create_task(quarantine.save("d1"))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        with pytest.raises(StoreUnavailable):
            await quarantine.lift("one")
    assert quarantine.of(one) is not None
    assert not saving.done()
    await patience.ended(saving)


async def test_a_looper_that_becomes_ready_and_ends_is_quarantined_too() -> None:
    """It ends while no run is in it: nobody's sample is to blame."""
    one, runner = plugin(), FakeRunner()
    async with served(runner, one) as instances:
        for number in range(FAULTS_MAX):
            await until(lambda number=number: len(runner.started) == number + 1 and states(instances) == ["ready"])
            await runner.started[-1].close()
            await until(lambda number=number: not runner.alive or len(runner.started) > number + 1)
        await until(lambda: states(instances) == ["quarantined"])


async def test_an_instance_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deaf while nothing runs in it; the next one answers."""
    monkeypatch.setattr(keeper_module, "CHECK_INTERVAL_S", 0.02)
    one, runner = plugin(), FakeRunner()
    async with served(runner, one) as instances:
        await until(lambda: states(instances) == ["ready"])
        runner.started[0].is_deaf = True
        await until(lambda: len(runner.started) == 2 and states(instances) == ["ready"])
        assert not runner.started[0].is_usable


@pytest.mark.promise("P37", "D6")
async def test_replacing_lets_the_run_that_is_there_end() -> None:
    """Drained, then gone; the run after it has a fresh instance."""
    one, runner = plugin(), FakeRunner()
    async with served(runner, one) as instances:
        await until(lambda: states(instances) == ["ready"])
        runner.gate.clear()
        running = asyncio.create_task(instances.use(one, occasion(), request(one)))
        await until(lambda: states(instances) == ["busy"])
        await instances.replace("one")
        assert len(runner.alive) == 1
        runner.gate.set()
        assert await running == DONE
        assert runner.started[0] not in runner.alive
        await instances.use(one, occasion("b"), request(one))
        assert runner.started[0].runs == 1
        await instances.forget(one)
        assert (instances.seen(), runner.alive) == ([], [])


class LateRunner(FakeRunner):
    """Its sandboxes start when the test lets them."""

    opening: asyncio.Event

    async def start(self, manifest: Manifest, plugin_dir: Path) -> FakeSandbox:
        """Ready, once it may be."""
        await self.opening.wait()
        return await super().start(manifest, plugin_dir)


@pytest.mark.promise("P37", "D6")
async def test_a_run_whose_instance_still_starts_is_not_ended_by_what_replaces_its_plugin() -> None:
    """It runs in what was started for it and ends well; then nothing of the replaced plugin is left."""
    one, runner = plugin(), LateRunner()
    runner.opening = asyncio.Event()
    async with served(runner) as instances:
        runner.gate.clear()
        running = asyncio.create_task(instances.use(one, occasion(), request(one)))
        await until(lambda: states(instances) == ["starting"])
        await instances.drain(one)
        runner.opening.set()
        await until(lambda: runner.running == {"one"})
        for _ in range(20):
            await asyncio.sleep(0)  # whoever would end it has had a turn
        assert len(runner.alive) == 1
        runner.gate.set()
        assert await running == DONE
        assert (instances.seen(), runner.alive) == ([], [])


@pytest.mark.promise("P37", "D6")
async def test_a_long_run_outlasts_the_looks_at_its_instance_after_its_plugin_was_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its instance is to end, but not before it."""
    monkeypatch.setattr(keeper_module, "CHECK_INTERVAL_S", 0.01)
    one, runner = plugin(), FakeRunner()
    async with served(runner, one) as instances:
        await until(lambda: states(instances) == ["ready"])
        runner.gate.clear()
        running = asyncio.create_task(instances.use(one, occasion(), request(one)))
        await until(lambda: states(instances) == ["busy"])
        await instances.drain(one)
        await asyncio.sleep(0.1)
        assert runner.started[0].is_usable
        runner.gate.set()
        assert await running == DONE
        assert (instances.seen(), runner.alive) == ([], [])


async def test_a_kept_instance_that_is_replaced_while_it_starts_is_not_left_over() -> None:
    """Nobody uses it: it is taken down as soon as it is there."""
    one, runner = plugin(), LateRunner()
    runner.opening = asyncio.Event()
    async with served(runner, one) as instances:
        await until(lambda: states(instances) == ["starting"])
        await instances.drain(one)
        runner.opening.set()
        await until(lambda: len(runner.started) == 1 and instances.seen() == [])
        assert runner.alive == []


def test_pauses_double_up_to_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each counts from the fault before it."""
    monkeypatch.undo()
    faults, pauses = NO_FAULTS, []
    for _ in range(9):
        faults = faults.another("x", at=100.0)
        pauses.append(faults.wait_s(100.0))
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, BACKOFF_MAX_S, BACKOFF_MAX_S, BACKOFF_MAX_S]
    assert faults.wait_s(131.0) == 0.0
    assert NO_FAULTS.wait_s(0.0) == 0.0


async def test_an_instance_serves_a_bounded_number_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a fresh one does, with other addresses; nobody's run notices."""
    monkeypatch.setattr(keeper_module, "RUNS_MAX", 3)
    one, runner = plugin(), FakeRunner()
    async with served(runner, one) as instances:
        await until(lambda: states(instances) == ["ready"])
        for number in range(7):
            assert await instances.use(one, occasion(str(number)), request(one)) == DONE
            await until(lambda: states(instances) == ["ready"])
        assert [sandbox.runs for sandbox in runner.started] == [3, 3, 1]
