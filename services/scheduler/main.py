"""What is plugged into what in the scheduler."""

from services.chassis.housekeeping import Expiry
from services.chassis.run import Runtime, Service
from services.scheduler import tables, timers, waiting
from services.scheduler.adapters.audit import AuditStream
from services.scheduler.api import router
from services.scheduler.dispatch import Dispatcher
from services.scheduler.handlers import HANDLERS
from services.scheduler.live import Live

FACTS_DAYS = 30
"""How long the live facts of a task are kept; its history and report stay."""
MIGRATIONS = (
    tables.MIGRATION,
    tables.MIGRATION_2,
    waiting.MIGRATION,
    waiting.MIGRATION_WAITS,
    waiting.MIGRATION_LOOKS,
    waiting.MIGRATION_WISHES,
)


async def compose(runtime: Runtime) -> Service:
    """The service."""
    live = Live()
    runtime.store.on_commit(live.on_commit)

    async def on_start() -> None:
        settings = runtime.settings
        await waiting.keep_rules(
            runtime.store, running_per_owner_max=settings.running_per_owner_max, budgets=settings.budgets
        )
        await timers.resume(runtime)

    return Service(
        handlers=HANDLERS,
        projections=(tables.TASKS,),
        runners=timers.RUNNERS,
        background=(Dispatcher(runtime).run,),
        routers=(router(runtime, live, AuditStream(runtime.settings.amqp_url)),),
        on_start=on_start,
        expiries=(Expiry("task_facts", "at", FACTS_DAYS),),
    )
