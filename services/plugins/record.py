"""What one stage says and remembers. Every identifier is derived: a repeated run says the same messages again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, cast

import structlog

from contracts.blobs import BlobRef
from contracts.envelope import Message
from contracts.ids import derived
from contracts.limits import REASON_MAX_CHARS
from contracts.machines import LeaseRef
from contracts.planning import EndedBy
from contracts.plugins import (
    ChildrenFound,
    ObservationEnded,
    PluginFinished,
    PluginResultProduced,
    PluginStageCompleted,
    PluginStageFailed,
    PluginStageSkipped,
    PluginStageStarted,
    PluginStarted,
    RunError,
    RunOutcome,
)
from contracts.scheduler import RunStage
from services.chassis.blobs import BlobStore
from services.chassis.store import Fenced
from services.chassis.unit import Unit
from services.chassis.work import WorkContext
from services.plugins import rows
from services.plugins.domain.occasion import Occasion
from services.plugins.policy.errors_told import errors_told

RESULTS_PER_STAGE_MAX = 800
LOG_MAX_CHARS = 64 * 1024
STAGE_FAILED = "the stage failed before the plugin ended"

AWAITED = (
    PluginStageStarted,
    PluginResultProduced,
    ChildrenFound,
    PluginStageCompleted,
    PluginStageFailed,
    PluginStageSkipped,
)
"""Facts that somebody waits for: they are said again when the stage is ordered again."""

Also = Callable[[Unit], None]


log = structlog.get_logger()


@dataclass(frozen=True)
class Evidence:
    """Bytes on this host that are to become a result."""

    name: str
    kind: str
    media_type: str
    path: Path
    guest_path: str | None = None
    is_truncated: bool = False
    title: str = ""


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    outcome: RunOutcome
    reason: str = ""
    is_error: bool = False
    duration_ms: int = 0
    log: bytes = b""


@dataclass(frozen=True)
class Kept:
    """What waits to be said, what is recorded with it, and the error of the stage that it tells of."""

    facts: tuple[Message, ...]
    also: Also | None = None
    error: RunError | None = None


class StageRecord:
    """The voice and the memory of one stage."""

    def __init__(self, command: RunStage, work: WorkContext, blobs: BlobStore) -> None:
        self.command = command
        self.key = rows.StageKey(command.task_id, command.attempt, command.stage.name)
        self.work = work
        self._blobs = blobs
        self.occasion = Occasion(
            command.task_id, command.attempt, command.stage.name, command.sample.blob.sha256, command.owner
        )
        self._kept_back: list[Kept] = []
        self._begun: dict[str, str] = {}
        self._ended_here: set[str] = set()
        self._about = {"task_id": command.task_id, "attempt": command.attempt, "stage": command.stage.name}

    def run_id(self, plugin: str) -> str:
        """The same for the same plugin in the same stage."""
        return derived("run", *self.key.parts, plugin)

    def fact(self, kind: type[Message], **fields: object) -> Message:
        """A fact about this stage."""
        return kind.model_validate({**self._about, **fields})

    def keep_back(self, *facts: Message, also: Also | None = None, error: RunError | None = None) -> None:
        """The facts, and whatever `also` adds, are committed with what is said next; nobody waits for them before."""
        self._kept_back.append(Kept(facts, also, error))

    async def say(self, *facts: Message, also: Also | None = None, finish: bool = False) -> None:
        """What was kept back, the facts, and whatever `also` adds, are committed together."""
        kept_back = tuple(self._kept_back)
        parts = (*kept_back, Kept(facts, also))
        listed = [fact for part in parts for fact in part.facts]

        async def decide(unit: Unit) -> None:
            for place, fact in enumerate(listed):
                names = (getattr(fact, name, "") for name in ("run_id", "result_id"))
                message_id = derived("msg", fact.type_name(), *self.key.parts, *names)
                unit.say(fact, message_id=message_id)
                rows.keep_said(unit, self.key, message_id, fact, is_awaited=isinstance(fact, AWAITED), place=place)
            for part in parts:
                if part.also is not None:
                    part.also(unit)

        try:
            await self.work.commit(decide, finish=finish)
        except Fenced:
            await self._file_late([fact for fact in listed if isinstance(fact, PluginResultProduced)])
            raise
        self._kept_back = [part for part in self._kept_back if not any(part is said for said in kept_back)]

    async def _file_late(self, results: Sequence[PluginResultProduced]) -> None:
        """Evidence of a lease that another drives by now is known, and is a result of nothing."""
        if self.command.guest is None or not results:
            return
        log.warning("evidence_came_late", task=self.command.task_id, results=[result.name for result in results])
        unit = self.work.unit()
        unit.holds = None
        for result in results:
            rows.file_late(unit, result, self.command.guest.lease, self.work.item.attempt)
        await self.work.store.commit(unit)

    async def stage_started(self) -> None:
        """The stage begins."""
        await self.say(self.fact(PluginStageStarted))

    async def run_started(self, plugin: str, version: str) -> None:
        """A run begins."""
        await self.say(self.started(plugin, version))

    def started(self, plugin: str, version: str) -> Message:
        """The fact that a run begins."""
        self._begun[plugin] = version
        return self.fact(PluginStarted, run_id=self.run_id(plugin), plugin=plugin, version=version)

    async def keep_launch(self, at: datetime, exec_error: str, *facts: Message) -> None:
        """The sample runs in the guest since then, or the guest could not run it."""
        await self.say(*facts, also=lambda unit: rows.keep_launch(unit, self.key, at, exec_error))

    async def watch_ended(self, rule: EndedBy, lease: LeaseRef) -> None:
        """The watch of the leased machine is over, by that rule."""
        fact = self.fact(ObservationEnded, ended_by=rule, lease=lease)
        await self.say(fact, also=lambda unit: rows.keep_end_of_watch(unit, self.key, rule))

    async def run_ended(self, plugin: str, version: str, ending: Ending, evidence: Sequence[Evidence] = ()) -> None:
        """The run's results are durable, then they and its outcome are recorded and said together."""
        facts, also, _ = await self._ended(plugin, version, ending, evidence)
        await self.say(*facts, also=also)

    async def keep_ending(self, plugin: str, version: str, ending: Ending, evidence: Sequence[Evidence] = ()) -> None:
        """The run's results are durable; they and its outcome are recorded and said together with what is said next."""
        facts, also, error = await self._ended(plugin, version, ending, evidence)
        self.keep_back(*facts, also=also, error=error if ending.is_error else None)

    async def _ended(
        self, plugin: str, version: str, ending: Ending, evidence: Sequence[Evidence]
    ) -> tuple[list[Message], Also, RunError]:
        produced = await self.store_evidence(plugin, version, evidence)
        self._ended_here.add(plugin)
        run_id, reason = self.run_id(plugin), ending.reason[:REASON_MAX_CHARS]
        finished = self.fact(
            PluginFinished,
            run_id=run_id,
            plugin=plugin,
            version=version,
            outcome=ending.outcome,
            reason=reason,
            duration_ms=ending.duration_ms,
        )
        error = RunError(
            plugin=plugin, stage=self.command.stage.name, outcome=ending.outcome, reason=reason or ending.outcome
        )
        log = ending.log.decode("utf-8", "replace").replace("\0", "")[:LOG_MAX_CHARS]

        def also(unit: Unit) -> None:
            for result in produced:
                rows.keep_result(unit, result)
            rows.keep_run(
                unit,
                self.key,
                run_id,
                version,
                error,
                is_error=ending.is_error,
                duration_ms=ending.duration_ms,
                log=log,
            )

        return [*produced, finished], also, error

    async def keep_results(
        self, plugin: str, version: str, evidence: Sequence[Evidence], *, and_also: Also | None = None
    ) -> None:
        """Results that no run of the plan made, such as what the agent itself saw, are durable, recorded and said."""
        produced = await self.store_evidence(plugin, version, evidence)

        def also(unit: Unit) -> None:
            for result in produced:
                rows.keep_result(unit, result)
            if and_also is not None:
                and_also(unit)

        await self.say(*produced, also=also)

    async def store_evidence(
        self, plugin: str, version: str, evidence: Sequence[Evidence]
    ) -> list[PluginResultProduced]:
        """The bytes are in the object store; the facts that say so are ready."""
        return [self.produced(plugin, version, one, await self._blobs.put_file(one.path)) for one in evidence]

    def produced(self, plugin: str, version: str, evidence: Evidence, blob: BlobRef) -> PluginResultProduced:
        """The fact that the bytes are durable."""
        return PluginResultProduced(
            task_id=self.command.task_id,
            attempt=self.command.attempt,
            stage=self.command.stage.name,
            result_id=derived("res", *self.key.parts, plugin, evidence.name),
            run_id=self.run_id(plugin),
            plugin=plugin,
            version=version,
            name=evidence.name,
            kind=cast("Literal['json', 'bytes', 'file']", evidence.kind),
            media_type=evidence.media_type,
            blob=blob,
            path=evidence.guest_path,
            is_truncated=evidence.is_truncated,
            title=evidence.title,
        )

    async def stage_completed(
        self, ended_by: EndedBy | None, errors: Sequence[RunError] = (), facts: Sequence[Message] = ()
    ) -> None:
        """Every run has an outcome; the work is done."""
        ids, known = await self._summary(errors)
        fact = self.fact(PluginStageCompleted, result_ids=ids, errors=known, ended_by=ended_by)

        def also(unit: Unit) -> None:
            rows.end_stage(unit, self.key, "completed")
            if any(isinstance(one, ChildrenFound) for one in facts):
                rows.await_decision(unit, self.key)

        await self.say(*facts, fact, also=also, finish=True)

    async def guest_is_pointless(self, reason: str) -> None:
        """Whoever would lease a machine for the sample knows that it has nothing to do there."""
        await self.say(PluginStageSkipped(task_id=self.command.task_id, attempt=1, stage="guest", reason=reason))

    async def stage_skipped(self, reason: str) -> None:
        """The stage has nothing to do with the sample; the work is done."""
        fact = self.fact(PluginStageSkipped, reason=reason)
        await self.say(fact, also=lambda unit: rows.end_stage(unit, self.key, "skipped"), finish=True)

    async def stage_failed(
        self,
        reason: str,
        *,
        is_retryable: bool,
        ended_by: EndedBy | None = None,
        errors: Sequence[RunError] = (),
        facts: Sequence[Message] = (),
    ) -> None:
        """The stage could not be done; what it produced is named, and no run is left open; the work is done."""
        await self._end_open_runs(reason)
        ids, known = await self._summary(errors)
        fact = self.fact(
            PluginStageFailed,
            reason=reason[:REASON_MAX_CHARS],
            is_retryable=is_retryable,
            result_ids=ids,
            errors=known,
            ended_by=ended_by,
        )
        await self.say(*facts, fact, also=lambda unit: rows.end_stage(unit, self.key, "failed"), finish=True)

    async def _end_open_runs(self, reason: str) -> None:
        """Whoever began, with this driver or one before, and has no outcome yet, ends with the stage: in one commit.

        A driver that dies before it leaves these runs open, and whoever goes on with the stage ends them.
        """
        begun = await rows.load_begun(self.work.store, self.key) | self._begun
        for plugin, version in begun.items():
            if plugin not in self._ended_here:
                await self.keep_ending(plugin, version, Ending("failed", f"{STAGE_FAILED}: {reason}", is_error=True))

    async def _summary(self, errors: Sequence[RunError]) -> tuple[tuple[str, ...], tuple[RunError, ...]]:
        store = self.work.store
        facts = [fact for part in self._kept_back for fact in part.facts if isinstance(fact, PluginResultProduced)]
        ids = (*await rows.load_result_ids(store, self.key), *(fact.result_id for fact in facts))
        known = [
            *errors,
            *await rows.load_errors(store, self.key),
            *(part.error for part in self._kept_back if part.error),
        ]
        if len(ids) > RESULTS_PER_STAGE_MAX:
            words = f"{len(ids)} results; only the first {RESULTS_PER_STAGE_MAX} are in the report"
            known.insert(0, RunError(plugin=None, stage=self.command.stage.name, outcome="failed", reason=words))
        return ids[:RESULTS_PER_STAGE_MAX], errors_told(known)
