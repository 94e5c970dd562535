"""Runs a stage that was ordered: host plugins in their groups here, the guest's session in `guest_stage`."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from contracts.envelope import Message
from contracts.planning import EndedBy, PlannedRun
from contracts.plugins import RunError
from contracts.scheduler import RunStage
from malbox.sdk.manifest import ManifestError
from services.chassis.blobs import BlobMissing, BlobStore
from services.chassis.errors import TransientError
from services.chassis.patience import ended, seen
from services.chassis.store import Store
from services.chassis.work import Runner, WorkContext, WorkItem
from services.plugins import rows
from services.plugins.cancellations import Cancellations
from services.plugins.children import Children
from services.plugins.domain.catalogue import Plugin
from services.plugins.errors import PreparationFailed, SandboxUnavailable
from services.plugins.events import subscribed, told
from services.plugins.guest_stage import GuestStage
from services.plugins.handlers import RUN_STAGE
from services.plugins.host_runs import HostRuns
from services.plugins.policy.configuration import configuration
from services.plugins.policy.packages import obstacle, unrunnable
from services.plugins.ports import InputFile, SpooledResult
from services.plugins.preparation import Preparation
from services.plugins.record import Ending, Evidence, StageRecord
from services.plugins.registry import Registry
from services.plugins.rows import Prepared

ATTEMPTS_MAX = 4  # a lease has a first driver and at most three that adopt it
T = TypeVar("T")


@dataclass(frozen=True)
class Given:
    """What the members of a group are given: earlier results, and what was said of the task until now."""

    inputs: tuple[InputFile, ...]
    left_out: int
    facts: Sequence[Message]
    earlier: Mapping[str, int]


@dataclass(frozen=True)
class Noted:
    """What is to be said at the end of a stage, beside how its runs ended."""

    stage: str
    facts: list[Message] = field(default_factory=list)
    errors: list[RunError] = field(default_factory=list)

    def failed(self, reason: str) -> None:
        """That is an error of the stage itself."""
        self.errors.append(RunError(plugin=None, stage=self.stage, outcome="failed", reason=reason))


class Stages:
    """Does the work that the handlers record."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        registry: Registry,
        runs: HostRuns,
        preparation: Preparation,
        children: Children,
        guest: GuestStage,
        cancellations: Cancellations,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._registry = registry
        self._runs = runs
        self._preparation = preparation
        self._children = children
        self._guest = guest
        self._cancellations = cancellations

    def runner(self, *, stages_at_once: int) -> Runner:
        """For the chassis."""
        return Runner(RUN_STAGE, self.run, self.give_up, concurrency=stages_at_once, attempts_max=ATTEMPTS_MAX)

    async def run(self, item: WorkItem, work: WorkContext) -> None:
        """The stage ended, and said how."""
        record = StageRecord(RunStage.model_validate(item.payload["command"]), work, self._blobs)
        async with self._runs.instances.holding(record.occasion):
            await self._run(record)

    async def _run(self, record: StageRecord) -> None:
        await record.stage_started()
        try:
            prepared = await self._preparation.prepare(record)
        except (PreparationFailed, SandboxUnavailable, BlobMissing) as error:
            await record.stage_failed(str(error), is_retryable=False)
            return
        reason = unrunnable(prepared.package, is_inside=prepared.container is not None, is_locked=prepared.is_locked)
        if record.key.stage == "guest":
            await (self._guest.run(record, prepared) if reason is None else record.stage_skipped(reason))
            return
        if record.key.stage == "static" and reason is not None:
            await record.guest_is_pointless(reason)
        noted = Noted(record.key.stage)
        is_done = await self._unless_cancelled(record, self._run_host_plugins(record, prepared, noted))
        ended_by: EndedBy | None = None if is_done else "cancelled"
        if not is_done:
            await self._skip_the_rest(record)
        await record.stage_completed(ended_by, noted.errors, noted.facts if is_done else ())

    async def give_up(self, item: WorkItem, work: WorkContext, error: Exception) -> None:
        """The stage failed for a reason of ours; another moment may do when the reason passes."""
        record = StageRecord(RunStage.model_validate(item.payload["command"]), work, self._blobs)
        await record.stage_failed(
            f"the stage could not be run: {error}", is_retryable=isinstance(error, TransientError)
        )

    async def _unless_cancelled(self, record: StageRecord, work: Awaitable[None]) -> bool:
        """Whether the work came to its end; a cancelled stage ends it where it stands."""
        running = asyncio.ensure_future(work)
        cancelled = asyncio.create_task(self._cancellations.wait(record.key))
        seen(running)
        try:
            await asyncio.wait({running, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (cancelled, running):
                if not task.done():
                    await ended(task)
        if running.cancelled():
            return False
        running.result()
        return True

    async def _run_host_plugins(self, record: StageRecord, prepared: Prepared, noted: Noted) -> None:
        """Every group ran; what is to be said of files inside the sample, and of what was not given, is noted."""
        if left_out := await self._run_groups(record, prepared):
            noted.failed(
                f"{left_out} results were not given to plugins that follow: there were more than {rows.INPUTS_MAX}"
            )
        found, unseen = await self._children.found(record, prepared)
        if unseen:
            noted.failed(
                f"{unseen} results were not looked through for files inside: there were more than {rows.PRODUCED_MAX}"
            )
        if found is not None:
            noted.facts.append(found)

    async def _run_groups(self, record: StageRecord, prepared: Prepared) -> int:
        """Every group ran, one after another. How many results the last of them was not given."""
        left_out = 0
        groups = record.command.stage.groups
        for number, members in enumerate(groups):
            # once: members of a group do not see each other, nor what they produced before the stage was run again
            following = [planned.plugin for group in groups[number:] for planned in group]
            given = await self._given(record, members, following, prepared)
            left_out = given.left_out
            try:
                async with asyncio.TaskGroup() as group:
                    for planned in members:
                        group.create_task(self._run_one(record, planned, prepared, given))
            except BaseExceptionGroup as faults:
                raise faults.exceptions[0] from faults
        return left_out

    async def _run_one(self, record: StageRecord, planned: PlannedRun, prepared: Prepared, given: Given) -> None:
        if await rows.has_run(self._store, record.run_id(planned.plugin)):
            return
        plugin = self._registry.pinned(planned)
        if plugin is None:
            words = f"version {planned.version} of {planned.plugin} is not in the catalogue"
            await record.run_ended(planned.plugin, planned.version, Ending("skipped", words, is_error=True))
            return
        reason = obstacle(plugin.manifest, prepared.package, prepared.platform, prepared.mime)
        if reason is not None:
            await record.run_ended(
                plugin.name, plugin.version, Ending("skipped", reason, is_error=_was_asked_for(record, plugin.name))
            )
            return
        await record.run_started(plugin.name, plugin.version)
        await self._run_sandboxed(record, plugin, planned, prepared, given)

    async def _run_sandboxed(
        self,
        record: StageRecord,
        plugin: Plugin,
        planned: PlannedRun,
        prepared: Prepared,
        given: Given,
    ) -> None:
        try:
            config = configuration(plugin.manifest, planned.config, record.command.request.password)
            news = told(plugin.manifest.events, given.facts, given.earlier)
            async with self._runs.run(
                plugin,
                record.occasion,
                sample=self._blobs.local_path(prepared.sha256),
                sample_name=prepared.name,
                config=config,
                inputs=given.inputs,
                told=news.content if news else None,
            ) as report:
                is_error = report.outcome in ("failed", "crashed", "timed_out") or (
                    report.outcome == "skipped" and _was_asked_for(record, plugin.name)
                )
                gaps = news.gaps if news else ()
                reason = "; ".join((*gaps, report.reason) if report.reason else gaps)
                ending = Ending(report.outcome, reason, is_error or bool(gaps), report.duration_ms, report.log)
                evidence = [_evidence(plugin, result) for result in report.results]
                await record.run_ended(plugin.name, plugin.version, ending, evidence)
        except (ManifestError, SandboxUnavailable) as error:
            await record.run_ended(plugin.name, plugin.version, Ending("failed", str(error), is_error=True))

    async def _facts(
        self, record: StageRecord, members: Sequence[PlannedRun]
    ) -> tuple[Sequence[Message], Mapping[str, int]]:
        """What was said of the task until now, where anybody in the group is to be told of any of it."""
        plugins = [self._registry.pinned(planned) for planned in members]
        kinds = subscribed(plugin for plugin in plugins if plugin is not None)
        return await rows.load_events(self._store, record.command.task_id, kinds) if kinds else ((), {})

    async def _given(
        self, record: StageRecord, members: Sequence[PlannedRun], following: Sequence[str], prepared: Prepared
    ) -> Given:
        known, left_out = await rows.load_inputs(self._store, record.key, following)
        inputs = [self._input(one) for one in known]
        if prepared.container is not None:
            path = self._blobs.local_path(prepared.container)
            inputs.append(InputFile("unpack", "container", path, "application/zip"))
        return Given(tuple(inputs), left_out, *await self._facts(record, members))

    def _input(self, one: dict[str, Any]) -> InputFile:
        path = self._blobs.local_path(one["sha256"])
        return InputFile(one["plugin"], one["name"], path, one["media_type"], is_truncated=one["is_truncated"])

    async def _skip_the_rest(self, record: StageRecord) -> None:
        """A run that had no outcome when the stage was cancelled did not run, and that is an error."""
        for planned in (run for group in record.command.stage.groups for run in group):
            if not await rows.has_run(self._store, record.run_id(planned.plugin)):
                ending = Ending("skipped", "the stage was cancelled", is_error=True)
                await record.run_ended(planned.plugin, planned.version, ending)


def _evidence(plugin: Plugin, result: SpooledResult) -> Evidence:
    title = plugin.manifest.title_of(result.name)
    return Evidence(result.name, result.kind, result.media_type, result.path, title=title)


def _was_asked_for(record: StageRecord, plugin: str) -> bool:
    """A plugin that the submitter named is expected to have something to say."""
    return any(choice.name == plugin for choice in record.command.request.plugins or ())
