"""Composition of intake: settings, tables, blobs, routes, handlers and runners."""

from importlib.resources import files

from services.chassis.housekeeping import Expiry
from services.chassis.run import Runtime, Service, run
from services.chassis.settings import load_settings
from services.intake.adapters.backlog import Backlog
from services.intake.adapters.tables import Tables
from services.intake.api import build_router
from services.intake.domain.choosing import ChildLimits
from services.intake.effects import RUNNERS
from services.intake.handlers import handlers
from services.intake.settings import IntakeSettings

NAME = "intake"
UNSTARTED_DAYS = 2


def migrations() -> tuple[str, ...]:
    """Intake's own schema, in order."""
    names = ("schema.sql", "schema_2.sql")
    return tuple((files("services.intake") / name).read_text(encoding="utf-8") for name in names)


async def compose(runtime: Runtime) -> Service:
    """What is plugged into what."""
    settings: IntakeSettings = runtime.settings
    settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    tables = Tables(runtime.store, runtime.unit)
    limits = ChildLimits(
        depth_max=settings.child_depth_max,
        per_task_max=settings.children_per_task_max,
        tasks_per_submission_max=settings.tasks_per_submission_max,
        bytes_max=settings.children_bytes_max,
    )
    backlog = Backlog(runtime.store, queued_max=settings.queued_per_owner_max)
    router = build_router(settings, tables, backlog, runtime.blobs, runtime.clock)
    return Service(
        handlers=handlers(limits, queued_max=settings.queued_per_owner_max),
        runners=RUNNERS,
        routers=(router,),
        expiries=(Expiry("unstarted", "since", UNSTARTED_DAYS),),
    )


def main() -> None:
    """Runs the service until it is told to stop."""
    run(NAME, load_settings(IntakeSettings), compose, migrations=migrations())
