"""What is plugged into what in the results service."""

from services.chassis.run import Runtime, Service, run
from services.chassis.settings import load_settings
from services.results.amending import Amender
from services.results.api import router
from services.results.handlers import handlers
from services.results.migrations import EXPIRIES, MIGRATIONS
from services.results.sealing import Sealer
from services.results.settings import ResultsSettings

NAME = "results"


async def compose(runtime: Runtime) -> Service:
    """The service over its store and the object store."""
    settings: ResultsSettings = runtime.settings
    sealer = Sealer(runtime.blobs, patience_s=settings.seal_patience_s)
    return Service(
        handlers=handlers(runtime.blobs),
        runners=(sealer.runner(), *Amender(runtime.blobs).runners()),
        expiries=EXPIRIES,
        routers=(router(runtime.store, runtime.blobs),),
    )


def main() -> None:
    """The service runs until it is told to stop."""
    run(NAME, load_settings(ResultsSettings), compose, migrations=MIGRATIONS)
