"""One run: processes are armed, tasks submitted, the processes die, start again, and everything must come to rest."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from deploy.local.processes import Identity
from tests.bench.wire import Refused
from tests.crash.cases import Case, Death
from tests.crash.client import Accepted, Client
from tests.crash.ground import Ground, wait_for_sigkill
from tests.crash.record import Record

RECOVERY_MAX_S = 120.0
"""P3: within this time every machine is ready or quarantined and every task terminal."""
GUESTS_DIE_WITH = frozenset({"machines"})
"""Instant machines live in the process of that service."""
TASKS_AT_FIRST = 2
TASKS_MAX = 14
PATIENCE_S = 1.0
POLL_S = 0.05


class PromiseBroken(AssertionError):
    """what must hold did not; the message says what, and how to see it again"""


@dataclass(frozen=True)
class Survived:
    """One run that ended well."""

    case: Case
    recovery_s: float
    outcomes: tuple[str, ...]
    quarantined: tuple[str, ...]
    resent: int


@dataclass
class Arena:
    """The ground with its client and its record, for any number of runs."""

    ground: Ground
    client: Client
    record: Record
    submissions: int = 0
    recovery_max_s: float = RECOVERY_MAX_S

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, ground: Ground) -> AsyncIterator["Arena"]:
        """One that has seen nothing yet. What is on record by then is taken as it is."""
        client = Client(ground.bed.origin)
        try:
            made = cls(ground, client, Record(ground.bed.here))
            await made.until_rest([], "before the first run")
            made.submissions = await made.record.begin()
            yield made
        finally:
            await client.close()

    async def run(self, case: Case) -> Survived:
        """The processes died where the case says, and nothing was lost. Raises PromiseBroken."""
        armed = [(death, await asyncio.to_thread(self.ground.arm, death.service, death.where)) for death in case.deaths]
        sending: list[asyncio.Task[Accepted]] = []
        try:
            await self._until_all_died(case, armed, sending)
            began = time.monotonic()
            accepted = list(await asyncio.gather(*sending))
            await self.until_rest(accepted, str(case))
        finally:
            for task in sending:
                task.cancel()
            await asyncio.to_thread(self.ground.revive)
        recovery_s = time.monotonic() - began
        await self.judge(accepted, str(case))
        if not {death.service for death in case.deaths} & GUESTS_DIE_WITH:
            self.expect_completed(accepted, str(case))
        return Survived(
            case,
            recovery_s,
            tuple(self.record.outcome(one.task_id) for one in accepted),
            await self.mend(),
            sum(one.tries - 1 for one in accepted),
        )

    def send(self, count: int, name: str) -> list["asyncio.Task[Accepted]"]:
        """That many new submissions are on their way."""
        first = self.submissions
        self.submissions += count
        return [asyncio.create_task(self.client.submit(f"{name}-{first + number}")) for number in range(count)]

    async def begin_again(self) -> None:
        """What is on record from here on is what counts: the database was put back to an older state."""
        await self.until_rest([], "after the database was put back")
        await self.record.start_over()
        self.submissions = await self.record.begin()

    async def until_rest(self, accepted: Sequence[Accepted], what: str) -> None:
        """Every machine is ready or quarantined, every task is over. Raises PromiseBroken after the promised time."""
        give_up_at = time.monotonic() + self.recovery_max_s
        tasks = [one.task_id for one in accepted]
        while unrest := await self.record.unrest(tasks):
            if time.monotonic() > give_up_at:
                raise PromiseBroken(
                    f"{what}: after {self.recovery_max_s:.0f} s there is no rest: {'; '.join(unrest)}\n"
                    f"{self.ground.last_words()}"
                )
            await asyncio.sleep(POLL_S)

    async def judge(self, accepted: Sequence[Accepted], what: str) -> None:
        """Nothing on record contradicts a promise; what was accepted can be asked for. Raises PromiseBroken."""
        tries = [one.tries for one in accepted]
        faults = await self.record.faults(accepted, self.submissions)
        for one, before in zip(accepted, tries, strict=True):
            try:
                await self.client.repeat(one)
                if self.record.outcome(one.task_id) in ("completed", "failed"):
                    report = await self.client.get(f"/tasks/{one.task_id}/report")
                    if report["task"]["task_id"] != one.task_id:
                        faults.append(f"the report of {one.task_id} is another's")
            except Refused as error:
                faults.append(str(error))
            one.tries = before
        if faults:
            raise PromiseBroken(f"{what}: {'; '.join(faults)}")

    def expect_completed(self, accepted: Sequence[Accepted], what: str) -> None:
        """Nothing happened to a guest, so no task may have lost what it found. Raises PromiseBroken."""
        ended = {one.task_id: self.record.outcome(one.task_id) for one in accepted}
        if worse := [f"{task} is {state}" for task, state in ended.items() if state != "completed"]:
            raise PromiseBroken(f"{what}: {'; '.join(worse)}")

    async def mend(self) -> tuple[str, ...]:
        """Quarantined machines are built again, as an operator would; why they were."""
        broken = self.record.quarantined()
        for name in broken:
            await self.client.post(f"/machines/{name}/rebuild", {"reason": "a run of the crash tests is over"})
        if broken:
            await self.until_rest([], "mending")
        return tuple(broken.values())

    async def _until_all_died(
        self, case: Case, armed: list[tuple[Death, Identity]], sending: "list[asyncio.Task[Accepted]]"
    ) -> None:
        """More and more is submitted until each process has come to its point often enough; who died starts again."""
        dying = {asyncio.create_task(asyncio.to_thread(wait_for_sigkill, process)): death for death, process in armed}
        sending += self.send(TASKS_AT_FIRST, f"crash-{case.seed}")
        while dying:
            dead, _ = await asyncio.wait(dying, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            for one in dead:
                one.result()
                del dying[one]
            await asyncio.to_thread(self.ground.revive)
            if dying and not dead and await self._is_idle(sending):
                if len(sending) >= TASKS_MAX:
                    raise PromiseBroken(f"{case}: {', '.join(map(str, dying.values()))}: never, in {TASKS_MAX} tasks")
                sending += self.send(1, f"crash-{case.seed}")

    async def _is_idle(self, sending: "list[asyncio.Task[Accepted]]") -> bool:
        """Whether everything that was submitted is accepted and over, so that nothing more comes of it."""
        if not all(task.done() for task in sending):
            return False
        return not await self.record.unrest([task.result().task_id for task in sending])


@dataclass
class Figures:
    """What a number of runs came to."""

    survived: list[Survived] = field(default_factory=list)

    def table(self) -> str:
        """A line for each point: how often somebody died there, and how long it took until everything was at rest."""
        times: dict[str, list[float]] = defaultdict(list)
        for one in self.survived:
            for death in one.case.deaths:
                times[death.point].append(one.recovery_s)
        lines = [f"{'point':<22}{'deaths':>8}{'recovery s p50':>16}{'max':>8}"]
        for point, seconds in sorted(times.items()):
            lines.append(f"{point:<22}{len(seconds):>8}{_median(seconds):>16.1f}{max(seconds):>8.1f}")
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """One line."""
        ends: dict[str, int] = defaultdict(int)
        for one in self.survived:
            for outcome in one.outcomes:
                ends[outcome] += 1
        seconds = [one.recovery_s for one in self.survived]
        return (
            f"{len(seconds)} runs, {sum(len(one.case.deaths) for one in self.survived)} deaths; recovery "
            f"p50 {_median(seconds):.1f} s, max {max(seconds, default=0):.1f} s; tasks: "
            f"{', '.join(f'{count} {state}' for state, count in sorted(ends.items()))}; submissions sent again "
            f"{sum(one.resent for one in self.survived)} times; machines quarantined "
            f"{sum(len(one.quarantined) for one in self.survived)}"
        )


def _median(numbers: Sequence[float]) -> float:
    ordered = sorted(numbers)
    return ordered[len(ordered) // 2] if ordered else 0.0
