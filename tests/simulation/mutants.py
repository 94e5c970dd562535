"""Malbox with one or two of its defences taken away. A simulation that does not notice is worth nothing.

Each is made by replacing something for as long as a block lasts; there is no switch for any of it in the product.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from services.chassis.relay import Relay
from services.chassis.unit import OutboxRow
from services.machines import app
from services.machines.domain.fence import Claim
from services.machines.domain.machine import Machine
from services.machines.effects.networks import Networks
from services.machines.effects.outcomes import Charge
from services.machines.errors import HypervisorUnavailable
from services.machines.isolation import IsolationWatch
from services.machines.ports import Breach
from services.machines.reconcile.reconciler import Reconciler
from services.scheduler.domain.task import Task, events
from tests.simulation import statements
from tests.simulation.guest import SimConnector, SimSession
from tests.simulation.hypervisor import SimHypervisor
from tests.simulation.run import Outcome, Simulation
from tests.simulation.world import Host

Mutation = Callable[[Simulation, ExitStack], None]
"""Takes a defence away from the simulation, until the stack unwinds."""


def run_mutant(mutations: tuple[Mutation, ...], seed: int, *, is_eventful: bool = False) -> Outcome:
    """The seed without those defences, until something is wrong."""
    sim = Simulation(seed, is_eventful=is_eventful)
    with ExitStack() as stack:
        for mutation in mutations:
            mutation(sim, stack)
        return sim.run(is_over_at_first_violation=True)


def seeds_until_caught(
    mutations: tuple[Mutation, ...], *, start: int, seeds_max: int, is_eventful: bool = False
) -> tuple[int, str] | None:
    """How many seeds it took to see that the defences are gone, and what was seen; None if it was never seen."""
    for count in range(1, seeds_max + 1):
        outcome = run_mutant(mutations, start + count - 1, is_eventful=is_eventful)
        if outcome.violations:
            return count, outcome.violations[0]
    return None


def amnesia_at_restart(sim: Simulation, stack: ExitStack) -> None:
    """Machines forgets everything when it is started again."""
    start = sim.start_service

    def forgetful(name: str) -> Any:
        if name == "machines" and sim.loop.now > 0:
            sim.stores.databases["machines"].restore(sim.stores.empty["machines"])
            sim.truth.forget_machines()
        return start(name)

    stack.enter_context(patch.object(sim, "start_service", forgetful))


def released_though_the_stop_failed(_sim: Simulation, stack: ExitStack) -> None:
    """Cleaning is called done, whether the process ended or not."""
    destroy = SimHypervisor.destroy

    async def careless(self: SimHypervisor, machine_id: str, *, epoch: int, claim: Claim | None = None) -> None:
        try:
            await destroy(self, machine_id, epoch=epoch, claim=claim)
        except HypervisorUnavailable:
            return

    stack.enter_context(patch.object(SimHypervisor, "destroy", careless))


def restore_leaves_the_old_process(_sim: Simulation, stack: ExitStack) -> None:
    """A restore does not look whether an older incarnation still runs, and libvirt does not either."""

    def unasked(self: SimHypervisor, host: Host, epoch: int, claim: Claim | None) -> None:
        self.check_fence(host, epoch, claim)

    stack.enter_context(patch.object(SimHypervisor, "_start_hook", unasked))
    stack.enter_context(patch.object(SimHypervisor, "_sweep", lambda _self, host: host.overlays.clear()))


def completed_at_the_release(_sim: Simulation, stack: ExitStack) -> None:
    """A machine that was given back counts as clean."""

    def keep(event: Any, aggregate: Task) -> None:
        aggregate.guest = None
        aggregate.machine = "clean"
        aggregate.left[event.machine_id] = (event.epoch, "clean")

    stack.enter_context(patch.object(events.MachineReturned, "keep", keep))


def append_without_a_version_check(_sim: Simulation, stack: ExitStack) -> None:
    """Whoever comes second is written behind whoever came first."""

    def append(sqlite: sqlite3.Connection, rows: list[tuple[str, int, str, bytes]]) -> None:
        for stream, _, topic, state in rows:
            last = sqlite.execute("SELECT coalesce(max(version), 0) FROM events WHERE stream = ?", (stream,))
            sqlite.execute(
                "INSERT INTO events (stream, version, topic, state) VALUES (?, ?, ?, ?)",
                (stream, last.fetchone()[0] + 1, topic, state),
            )

    stack.enter_context(patch.object(statements, "append", append))


def whoever_answers_is_the_guest(_sim: Simulation, stack: ExitStack) -> None:
    """What comes from the machine's address is taken for the lease's, and given under it."""
    stack.enter_context(patch.object(SimConnector, "prove", lambda _self, _life, _endpoint: None))
    stack.enter_context(patch.object(SimSession, "check_lease", lambda _self: None))


def no_fence_at_the_host(_sim: Simulation, stack: ExitStack) -> None:
    """The host acts for whoever asks."""
    stack.enter_context(patch.object(SimHypervisor, "check_fence", lambda _self, _host, _epoch, _claim: None))


def any_worker_of_an_epoch_is_obeyed(_sim: Simulation, stack: ExitStack) -> None:
    """The host tells epochs apart, and not the claims within one."""
    check = SimHypervisor.check_fence

    def by_epoch(self: SimHypervisor, host: Host, epoch: int, _claim: Claim | None) -> None:
        check(self, host, epoch, None)

    stack.enter_context(patch.object(SimHypervisor, "check_fence", by_epoch))


def inbox_without_dedupe(_sim: Simulation, stack: ExitStack) -> None:
    """A message that comes twice is handled twice."""
    stack.enter_context(patch.object(statements, "is_new", lambda _sqlite, _message_id: True))


def outbox_deleted_before_the_confirm(_sim: Simulation, stack: ExitStack) -> None:
    """Messages leave the outbox, then they are published."""

    async def say(self: Relay, channel: Any, rows: Sequence[OutboxRow]) -> None:
        await self._store.fetch("SELECT forget_said($1)", [row.message_id for row in rows])
        await self._publish_all(channel, rows)

    stack.enter_context(patch.object(Relay, "_say", say))


def ready_from_memory(_sim: Simulation, stack: ExitStack) -> None:
    """When machines is started again, what was being verified counts as verified."""
    introduce = Reconciler.introduce

    async def remember(self: Reconciler, *, only_ready: bool = False) -> None:
        store = self._runtime.store
        for row in [] if only_ready else await store.fetch("SELECT machine_id FROM fleet ORDER BY machine_id"):
            machine = await store.load(Machine, Machine.stream(row["machine_id"]))
            if machine is not None and machine.state == "verifying":
                unit = self._runtime.unit()
                machine.verify_clean({}, unit.at)
                app.record(unit, machine)
                await store.commit(unit)
        await introduce(self, only_ready=only_ready)

    stack.enter_context(patch.object(Reconciler, "introduce", remember))


def term_not_checked(_sim: Simulation, stack: ExitStack) -> None:
    """A guest obeys any driver of its lease, one that was replaced too."""

    def check_lease(self: SimSession) -> None:
        if self.lease.lease_id != self.life.lease_id:
            self.refuse()

    stack.enter_context(patch.object(SimSession, "check_lease", check_lease))


def a_lease_never_expires(_sim: Simulation, stack: ExitStack) -> None:
    """Only its owner ends a lease."""
    stack.enter_context(patch.object(Machine, "expire_lease", lambda *_arguments, **_named: None))


def nobody_hears_of_a_breach(_sim: Simulation, stack: ExitStack) -> None:
    """Neither who watches over networks nor who cleans a machine minds that its guest broke out."""

    async def unheard(_self: IsolationWatch, _breach: Breach) -> None:
        """Nothing is recorded."""

    async def unseen(_self: Networks, _on: Charge) -> str:
        return ""

    stack.enter_context(patch.object(IsolationWatch, "_breached", unheard))
    stack.enter_context(patch.object(Networks, "breach", unseen))


SINGLE: tuple[tuple[Mutation, int], ...] = (
    (amnesia_at_restart, 20),
    (released_though_the_stop_failed, 200),
    (completed_at_the_release, 20),
    (append_without_a_version_check, 200),
    (whoever_answers_is_the_guest, 200),
    (no_fence_at_the_host, 300),
    (any_worker_of_an_epoch_is_obeyed, 300),
    (inbox_without_dedupe, 20),
    (outbox_deleted_before_the_confirm, 20),
    (ready_from_memory, 200),
    (a_lease_never_expires, 60),
    (term_not_checked, 200),
)
"""Each alone, and in how many seeds at most it has to be noticed."""
EVENTFUL: tuple[tuple[Mutation, int], ...] = ((nobody_hears_of_a_breach, 60),)
"""The same, in seeds that are all eventful."""
