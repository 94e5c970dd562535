"""One stage on one guest while it goes on, and how its evidence is brought home."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from contracts.planning import EndedBy, PlannedRun
from contracts.plugins import RunError, SampleStarted
from contracts.scheduler import GuestAssignment
from services.chassis.patience import ended
from services.chassis.unit import Unit
from services.plugins import rows
from services.plugins.guest_evidence import AGENT, agent_evidence, run_endings
from services.plugins.guest_plugins import GuestPlugins
from services.plugins.guest_record import GuestRecord
from services.plugins.ports_guest import Collected, GuestLied, GuestRefused, GuestSession, GuestUnreachable, Launched
from services.plugins.record import StageRecord
from services.plugins.rows import Prepared

COLLECT_AT_LEAST_S = 10.0
SHOWN_WORDS_MAX = 16
SHOWN_WORD_MAX_CHARS = 256
log = structlog.get_logger()


@dataclass(frozen=True)
class Clocks:
    """The host's wall clock and its monotonic one, looked at together when the sitting began.

    Instants that were written down are put on the monotonic clock once; a wall clock that is set later moves nothing.
    """

    now: Callable[[], float]
    wall_at_start: datetime
    started_at: float

    def wall(self) -> datetime:
        """This instant, as the wall clock would show it had nobody set it since the sitting began."""
        return self.wall_at_start + timedelta(seconds=self.now() - self.started_at)

    def monotonic(self, instant: datetime) -> float:
        """The instant on the monotonic clock."""
        return self.started_at + (instant - self.wall_at_start).total_seconds()


@dataclass
class Sitting:
    """One stage on one guest while it goes on."""

    record: StageRecord
    prepared: Prepared
    assignment: GuestAssignment
    session: GuestSession
    evidence: GuestRecord
    plugins: GuestPlugins
    titles: Mapping[str, str]
    directory: Path
    agent_version: str
    changed: asyncio.Event
    clock: Clocks
    launched_at: datetime | None = None
    exec_error: str = ""
    ended_by: EndedBy | None = None
    is_cancelled: bool = False

    @property
    def runs(self) -> list[PlannedRun]:
        """The plan's guest plugins that are part of the agent, in order; the others are `plugins`."""
        planned = [run for group in self.record.command.stage.groups for run in group]
        return [run for run in planned if run.plugin not in self.plugins.plugins]


def driven_by(assignment: GuestAssignment, term: int) -> GuestAssignment:
    """The same lease, whose driver is this one: the first, or one that adopted it."""
    lease = assignment.lease.model_copy(update={"term": term})
    return assignment.model_copy(update={"lease": lease})


def sample_started(sitting: Sitting, launched: Launched, argv: tuple[str, ...]) -> SampleStarted:
    """The fact that the sample runs; of a long command line only its beginning."""
    return SampleStarted(
        task_id=sitting.record.command.task_id,
        attempt=sitting.record.command.attempt,
        stage="guest",
        lease_id=sitting.assignment.lease.lease_id,
        pid=launched.pid,
        argv=tuple(word[:SHOWN_WORD_MAX_CHARS] for word in argv[:SHOWN_WORDS_MAX]),
    )


async def seal(sitting: Sitting, pump: asyncio.Task[None], rule: EndedBy, *, timeout_s: float) -> None:
    """The record is complete and here. Raises GuestUnreachable, GuestRefused, GuestLied."""
    if rule == "guest_lost":
        raise GuestUnreachable("no sign of life for too long")
    try:
        async with asyncio.timeout(timeout_s):
            flushed = await sitting.session.flush()
            await pump
    except TimeoutError as error:
        raise GuestUnreachable("the guest did not complete its record") from error
    sitting.evidence.compare(flushed.sources)


async def end_plugins(sitting: Sitting, *, timeout_s: float) -> None:
    """Nothing of the bundled plugins is left in the guest, or there was no time to see it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(COLLECT_AT_LEAST_S, timeout_s)):
            await sitting.plugins.end()


async def keep_what_came(sitting: Sitting) -> None:
    """The record broke off: what there is of it is durable, marked as less than there was, recorded and said."""
    sitting.evidence.cut()
    await _keep(sitting, Collected((), 0))


async def keep_own_endings(sitting: Sitting) -> None:
    """No sample runs. A bundled plugin that had ended by itself has its own outcome; the others end with the stage."""
    for planned, ending, _evidence in sitting.plugins.outcomes():
        if planned.plugin in sitting.plugins.endings:
            await sitting.record.keep_ending(planned.plugin, planned.version, ending)


async def bring_home(sitting: Sitting, *, timeout_s: float) -> list[RunError]:
    """All evidence is durable, recorded and said; what is missing from it is returned. Raises GuestLied."""
    into = sitting.directory / "collected"
    into.mkdir()
    collected = await sitting.session.collect(into, timeout_s=max(COLLECT_AT_LEAST_S, timeout_s))
    errors = _missing(sitting, collected)
    if isinstance(collected.fault, GuestLied):
        await _keep(sitting, collected)
        raise collected.fault
    await _keep(sitting, collected, errors)
    return errors


async def take_leave(sitting: Sitting) -> None:
    """The plugins and the agent end. The machine is thrown away next, so that a refusal here costs nothing."""
    try:
        for planned in sitting.runs:
            await sitting.session.shutdown_plugin(planned.plugin)
        await sitting.session.shutdown()
    except (GuestUnreachable, GuestRefused, GuestLied) as error:
        log.warning("guest_did_not_take_leave", reason=str(error))


async def _keep(sitting: Sitting, collected: Collected, errors: list[RunError] | None = None) -> None:
    """Every run has its outcome. With `errors`, which may be none, nothing more is to come."""
    sitting.evidence.close()
    of_agent = run_endings(sitting.runs, sitting.evidence, sitting.exec_error, sitting.titles)
    outcomes = of_agent + sitting.plugins.outcomes()
    for planned, ending, evidence in outcomes:
        await sitting.record.keep_ending(planned.plugin, planned.version, ending, evidence)
    own = agent_evidence(sitting.runs, sitting.evidence, collected, sitting.directory)

    def and_also(unit: Unit) -> None:
        if errors is not None:
            rows.keep_collected(unit, sitting.record.key, errors)

    await sitting.record.keep_results(AGENT, sitting.agent_version[:40] or "unknown", own, and_also=and_also)


def _missing(sitting: Sitting, collected: Collected) -> list[RunError]:
    reasons = []
    if sitting.exec_error:
        reasons.append(f"the guest could not run the sample: {sitting.exec_error}")
    if collected.fault is not None:
        reasons.append(f"collecting files was cut short: {collected.fault}")
    if collected.omitted:
        reasons.append(f"{collected.omitted} more files that the sample wrote were not collected")
    reasons += [f"the guest hashed another {name} than came" for name in sitting.evidence.differing]
    if sitting.evidence.gaps:
        reasons.append(f"{sitting.evidence.gaps} pieces of evidence never came")
    if sitting.session.frames_refused:
        reasons.append(f"{sitting.session.frames_refused} messages of the guest were not believed")
    if sitting.evidence.strange_pieces:
        reasons.append(f"{sitting.evidence.strange_pieces} pieces of evidence are of plugins that are not there")
    of_guest = [RunError(plugin=None, stage="guest", outcome="failed", reason=reason) for reason in reasons]
    return of_guest + sitting.plugins.missing()


async def stilled(pump: asyncio.Task[None]) -> None:
    """Nothing is taken in any more. What the pump raised was seen, or comes after the end."""
    await ended(pump, GuestLied, GuestRefused, OSError)
