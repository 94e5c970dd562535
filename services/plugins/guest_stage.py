"""The guest stage: drives the agent of the leased machine from hello to shutdown, and makes what came into results.

A driver that died or lost its claim is followed by another, with a higher term: launching is recorded, the agent keeps
its record and refuses the driver before, and a watch may begin anew. What cannot be taken up fails as retryable:
another machine may do.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from contracts.planning import Budgets, EndedBy, PlannedRun
from contracts.plugins import GuestConnected, GuestLost, SampleExited
from contracts.scheduler import GuestAssignment
from services.chassis.blobs import BlobStore
from services.chassis.patience import ended
from services.chassis.store import Fenced
from services.plugins import rows
from services.plugins.cancellations import Cancellations
from services.plugins.errors import GuestStageFailed
from services.plugins.guest_plugins import bundled, keeping_alive, titles
from services.plugins.guest_record import GuestRecord
from services.plugins.host_runs import SPOOL_PREFIX
from services.plugins.lease_beats import say_beats
from services.plugins.policy.observation import Observation, ended_by, hard_at, next_look_at
from services.plugins.policy.packages import command_line, guest_name
from services.plugins.ports_guest import (
    GuestConnector,
    GuestLied,
    GuestRefused,
    GuestSession,
    GuestUnreachable,
)
from services.plugins.record import StageRecord
from services.plugins.registry import Registry
from services.plugins.rows import Prepared
from services.plugins.sitting import (
    Clocks,
    Sitting,
    bring_home,
    driven_by,
    end_plugins,
    keep_own_endings,
    keep_what_came,
    sample_started,
    seal,
    stilled,
    take_leave,
)
from services.plugins.task_news import TaskNews

REWATCH_DELAY_S = 0.2
REWATCH_DELAY_MAX_S = 2.0
log = structlog.get_logger()


class GuestStage:
    """Runs guest stages."""

    def __init__(
        self,
        connector: GuestConnector,
        blobs: BlobStore,
        registry: Registry,
        cancellations: Cancellations,
        news: TaskNews,
        *,
        scratch_dir: Path,
        connect_timeout_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connector = connector
        self._blobs = blobs
        self._registry = registry
        self._cancellations = cancellations
        self._news = news
        self._scratch_dir = scratch_dir
        self._connect_timeout_s = connect_timeout_s
        self._now = monotonic

    async def run(self, record: StageRecord, prepared: Prepared) -> None:
        """The stage ended, and said how."""
        assignment = record.command.guest
        if assignment is None:
            await record.stage_failed("a guest stage was ordered without a machine", is_retryable=False)
            return
        assignment = driven_by(assignment, record.work.item.attempt)
        beats = asyncio.create_task(say_beats(record.work, record.command.task_id, assignment.lease))
        try:
            await self._adopt_or_sit(record, prepared, assignment)
        except (GuestUnreachable, GuestRefused) as error:
            reason = f"the guest was lost: {error}"
            lost = record.fact(GuestLost, lease_id=assignment.lease.lease_id, reason=reason)
            await record.stage_failed(reason, is_retryable=True, ended_by="guest_lost", facts=(lost,))
        except (GuestLied, GuestStageFailed) as error:
            await record.stage_failed(str(error), is_retryable=False)
        finally:
            await ended(beats, Fenced)

    async def _adopt_or_sit(self, record: StageRecord, prepared: Prepared, assignment: GuestAssignment) -> None:
        """A driver whose predecessor had brought everything home only has to say so; the guest may be gone by now."""
        if record.work.item.attempt > 1:
            known = await rows.load_stage(record.work.store, record.key)
            if known is not None and known.collected_errors is not None:
                await record.stage_completed(known.ended_by, known.collected_errors)
                return
        await self._sit(record, prepared, assignment)

    async def _sit(self, record: StageRecord, prepared: Prepared, assignment: GuestAssignment) -> None:
        session = await self._connector.connect(
            assignment.endpoint, assignment.lease, timeout_s=self._connect_timeout_s
        )
        try:
            with TemporaryDirectory(prefix=SPOOL_PREFIX, dir=self._scratch_dir) as spool:
                await self._sit_with(session, Path(spool), record, prepared, assignment)
        finally:
            await session.close()

    async def _sit_with(
        self,
        session: GuestSession,
        spool: Path,
        record: StageRecord,
        prepared: Prepared,
        assignment: GuestAssignment,
    ) -> None:
        hello = await session.hello()
        lease_id = assignment.lease.lease_id
        record.keep_back(record.fact(GuestConnected, lease_id=lease_id, agent_version=hello.agent_version))
        known = await rows.load_stage(record.work.store, record.key)
        plugins = bundled(record, session, spool, hello.capabilities, self._registry)
        sitting = Sitting(
            record=record,
            prepared=prepared,
            assignment=assignment,
            session=session,
            evidence=GuestRecord(
                directory=spool,
                heartbeat_at=self._now(),
                may_keep_alive=keeping_alive(record.command, self._registry),
                plugins=plugins.records,
            ),
            plugins=plugins,
            titles=titles(record.command, self._registry),
            directory=spool,
            agent_version=hello.agent_version,
            changed=asyncio.Event(),
            clock=Clocks(self._now, record.work.clock.now(), self._now()),
            launched_at=known.launched_at if known else None,
            exec_error=known.exec_error if known else "",
            ended_by=known.ended_by if known else None,
        )
        cancelled = asyncio.create_task(self._mark_cancelled(sitting))
        try:
            if sitting.launched_at is None:
                await session.set_clock()
                await self._launch(sitting)
            await self._observe_and_collect(sitting)
        finally:
            sitting.evidence.close()
            await ended(cancelled)

    async def _mark_cancelled(self, sitting: Sitting) -> None:
        await self._cancellations.wait(sitting.record.key)
        sitting.is_cancelled = True
        sitting.changed.set()

    async def _launch(self, sitting: Sitting) -> None:
        """The sample runs, with every plugin of the plan watching, and that is recorded."""
        try:
            await self._start_all(sitting)
        except (GuestUnreachable, GuestRefused, GuestLied, GuestStageFailed):
            await keep_own_endings(sitting)
            raise

    async def _start_all(self, sitting: Sitting) -> None:
        record, session, prepared = sitting.record, sitting.session, sitting.prepared
        path = await session.put(self._blobs.local_path(prepared.sha256), guest_name(prepared.name))
        for planned in sitting.runs:
            await self._init_plugin(sitting, planned)
        for group in record.command.stage.groups:
            await sitting.plugins.start([run.plugin for run in group])
        await session.arm()
        argv = command_line(prepared.package, path, record.command.request.arguments)
        launched = await session.launch(argv, has_network=record.command.request.route != "none")
        sitting.launched_at = sitting.clock.wall()
        sitting.exec_error = launched.exec_error
        started = sample_started(sitting, launched, argv)
        await record.keep_launch(sitting.launched_at, launched.exec_error, started)

    async def _init_plugin(self, sitting: Sitting, planned: PlannedRun) -> None:
        plugin = self._registry.pinned(planned)
        if plugin is None:
            raise GuestStageFailed(f"version {planned.version} of {planned.plugin} is not in the catalogue")
        sitting.record.keep_back(sitting.record.started(planned.plugin, planned.version))
        version = await sitting.session.init_plugin(
            planned.plugin, dict(plugin.manifest.effective_config(planned.config))
        )
        if version != planned.version:
            raise GuestStageFailed(
                f"the guest has version {version} of {planned.plugin}, not {planned.version}: an image that an earlier "
                "release built is built again by `make image`, and its machines follow"
            )

    async def _observe_and_collect(self, sitting: Sitting) -> None:
        pump = asyncio.create_task(self._pump(sitting))
        telling = asyncio.create_task(sitting.plugins.keep_telling(self._news))
        try:
            rule = sitting.ended_by or await self._observe(sitting, pump)
            await sitting.record.watch_ended(rule, sitting.assignment.lease)
            await stilled(telling)
            await sitting.plugins.tell()
            collect_until = self._now() + self._budgets(sitting).collection_s
            await seal(sitting, pump, rule, timeout_s=(collect_until - self._now()) / 2)
        except (GuestUnreachable, GuestRefused, GuestLied):
            await stilled(pump)
            await keep_what_came(sitting)
            raise
        finally:
            await stilled(telling)
            await stilled(pump)
        await end_plugins(sitting, timeout_s=(collect_until - self._now()) / 2)
        errors = await bring_home(sitting, timeout_s=collect_until - self._now())
        await take_leave(sitting)
        await sitting.record.stage_completed(rule, errors)

    async def _pump(self, sitting: Sitting) -> None:
        """Takes in what happens until the record is sealed; a watch that breaks is taken up where it was."""
        evidence, delay_s = sitting.evidence, REWATCH_DELAY_S
        while True:
            before = evidence.position
            try:
                async with contextlib.aclosing(sitting.session.watch(after_position=evidence.position)) as events:
                    async for event in events:
                        evidence.take(event, self._now())
                        sitting.changed.set()
                        if evidence.is_sealed:
                            return
            except GuestUnreachable as error:
                log.warning("watch_was_interrupted", reason=str(error))
            delay_s = REWATCH_DELAY_S if evidence.position > before else min(2 * delay_s, REWATCH_DELAY_MAX_S)
            await asyncio.sleep(delay_s)

    async def _observe(self, sitting: Sitting, pump: asyncio.Task[None]) -> EndedBy:
        """The rule that ended the watch. Raises what the pump raised."""
        is_exit_said = False
        while True:
            observation = self._observation(sitting)
            now = self._now()
            rule = "sample_exit" if sitting.exec_error else ended_by(observation, now)
            if sitting.evidence.first_exit is not None and not is_exit_said:
                is_exit_said = True
                await self._say_exit(sitting)
            if rule is not None:
                return rule
            if pump.done():
                pump.result()
                raise GuestLied("the guest sealed its record before it was asked to")
            sitting.changed.clear()
            change = asyncio.create_task(sitting.changed.wait())
            try:
                await asyncio.wait(
                    {change, pump}, timeout=next_look_at(observation) - now, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                change.cancel()

    def _observation(self, sitting: Sitting) -> Observation:
        clock, request, budgets = sitting.clock, sitting.record.command.request, self._budgets(sitting)
        started_at = clock.monotonic(sitting.launched_at or clock.wall_at_start)
        return Observation(
            started_at=started_at,
            window_s=request.timeout_s,
            hard_at=hard_at(
                started_at=started_at,
                window_s=request.timeout_s,
                grace_s=budgets.grace_s,
                lease_ends_at=clock.monotonic(sitting.assignment.hard_deadline_at),
                collection_s=budgets.collection_s,
            ),
            heartbeat_at=sitting.evidence.heartbeat_at,
            tree_empty_at=sitting.evidence.tree_empty_at,
            is_enforced=request.enforce_timeout,
            is_kept_alive=bool(sitting.evidence.holders),
            released_at=sitting.evidence.released_at,
            is_cancelled=sitting.is_cancelled,
        )

    def _budgets(self, sitting: Sitting) -> Budgets:
        command = sitting.record.command
        return command.budgets or Budgets(observation_s=command.request.timeout_s)

    async def _say_exit(self, sitting: Sitting) -> None:
        first = sitting.evidence.first_exit
        if first is not None:
            await sitting.record.say(
                sitting.record.fact(
                    SampleExited,
                    lease_id=sitting.assignment.lease.lease_id,
                    exit_code=first.exit_code,
                    signal=first.signal,
                )
            )
