"""Watches the leases of this host: their drivers' beats, their terms, and their hard deadlines even without a store."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from services.chassis.errors import MalboxError
from services.chassis.patience import until_woken
from services.chassis.run import Runtime
from services.chassis.store import Conflict, Duplicate, StoreUnavailable
from services.chassis.unit import Unit
from services.machines import app
from services.machines.domain.machine import Machine
from services.machines.policy import Observer, Verdict
from services.machines.policy.beats import LOOK_INTERVAL_S, REPEAT_INTERVAL_S, Beat
from services.machines.reconcile.deadlines import Deadlines, Held

LOOK_GAP_S = 0.5
"""A lease that just began is seen so soon: from then on its deadline needs no store. Its row is written by then."""

log = structlog.get_logger()


class LeaseWatch:
    """One observer. Any number may watch: what they decide is appended to the version that they decided on."""

    def __init__(self, runtime: Runtime, deadlines: Deadlines) -> None:
        self._runtime = runtime
        self._deadlines = deadlines
        self._observer = Observer()
        self._strangers: dict[str, Beat] = {}
        self._answered: dict[str, float] = {}
        self._wake = asyncio.Event()
        runtime.store.on_commit(self._on_commit)

    async def run(self) -> None:
        """Looks at every interval, and soon after a lease began, until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.look()
            except StoreUnavailable as error:
                log.warning("leases_were_not_seen", reason=str(error))
                await self._deadlines.keep()
            except MalboxError as error:
                log.warning("lease_watch_was_interrupted", reason=str(error))
            except Exception:  # a defect of ours: the next look is due
                log.exception("lease_watch_failed")
            await until_woken(self._wake, LOOK_INTERVAL_S - LOOK_GAP_S)
            await asyncio.sleep(LOOK_GAP_S)

    def _on_commit(self, unit: Unit) -> None:
        if any(isinstance(event, Machine.GuestAttested) for event in unit.events):
            self._wake.set()

    async def look(self) -> None:
        """Silent drivers lose their leases, new ones are recorded, unheard grants said again."""
        store, host = self._runtime.store, self._runtime.settings.host
        rows = await store.fetch(
            "SELECT machine_id, lease_id, epoch, term, hard_deadline_at FROM fleet WHERE host = $1 AND state = ANY($2)",
            host,
            ["active", "draining"],
        )
        held = {row["lease_id"]: Held.model_validate(dict(row)) for row in rows}
        self._deadlines.see(held)
        heard = await store.fetch(
            "SELECT lease_id, machine_id, term, beat FROM lease_beat WHERE heard_at > $1 OR lease_id = ANY($2::text[])",
            self._runtime.clock.now() - timedelta(seconds=2 * LOOK_INTERVAL_S),
            list(held),
        )
        beats = {row["lease_id"]: (row["term"], row["beat"]) for row in heard}
        terms = {lease_id: one.term for lease_id, one in held.items()}
        for verdict in self._observer.look(terms, beats, time.monotonic()):
            await self._carry_out(verdict)
        strangers = {row["lease_id"]: row["machine_id"] for row in heard if row["lease_id"] not in held}
        await self._answer(
            {lease_id: name for lease_id, name in strangers.items() if self._is_driven_on(lease_id, beats[lease_id])}
        )
        self._strangers = {lease_id: beats[lease_id] for lease_id in strangers}

    async def _carry_out(self, verdict: Verdict) -> None:
        def decide(unit: Unit, machine: Machine) -> None:
            if verdict.act == "adopt":
                app.adopt(unit, machine, verdict.lease_id, verdict.term)
            elif verdict.act == "expire":
                app.expire(unit, machine, verdict.lease_id, "lease_lost", "nobody drove the lease any more")
            elif machine.lease_id == verdict.lease_id:
                app.repeat.grant(unit, machine)

        await self._decide(self._deadlines.held[verdict.lease_id].machine_id, decide)

    def _is_driven_on(self, lease_id: str, beat: Beat) -> bool:
        """Whether the lease, which is over, was so at the last look already, and has another beat since.

        The last beat of a driver that ended with its lease calls for no answer.
        """
        return self._strangers.get(lease_id, beat) != beat

    async def _answer(self, driven: dict[str, str]) -> None:
        """A driver of a lease that is over hears, now and then, how it ended."""
        now_s = time.monotonic()
        self._answered = {lease: at for lease, at in self._answered.items() if now_s - at < REPEAT_INTERVAL_S}
        for lease_id in sorted(driven.keys() - self._answered.keys()):
            self._answered[lease_id] = now_s

            def decide(unit: Unit, machine: Machine, lease_id: str = lease_id) -> None:
                ended = machine.ended(lease_id)
                if ended is not None:
                    app.repeat.outcome(unit, machine, ended)

            await self._decide(driven[lease_id], decide)

    async def _decide(self, machine_id: str, decide: Callable[[Unit, Machine], None]) -> None:
        machine = await self._runtime.store.load(Machine, Machine.stream(machine_id))
        if machine is None:
            return
        unit = self._runtime.unit()
        decide(unit, machine)
        if unit.events or unit.outbox:
            try:
                await self._runtime.store.commit(unit)
            except (Conflict, Duplicate):
                log.info("lease_watch_was_overtaken", machine=machine_id)
