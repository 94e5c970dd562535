"""What is plugged into what in the plugins service."""

import asyncio
from functools import partial
from importlib.resources import files
from pathlib import Path

import structlog

from contracts.plugins import PluginRegistered, PluginRejected, PluginRemoved
from malbox.sdk.manifest import load_manifest
from services.chassis.errors import TransientError
from services.chassis.housekeeping import Expiry
from services.chassis.run import Runtime, Service
from services.plugins import rows
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.folders import BUILTIN_DIR, read_catalogue
from services.plugins.adapters.guest_agent import GrpcGuestConnector
from services.plugins.api import router
from services.plugins.api_instances import instances_router
from services.plugins.cancellations import Cancellations
from services.plugins.domain.catalogue import Catalogue, Plugin
from services.plugins.guest_stage import GuestStage
from services.plugins.handlers import HANDLERS
from services.plugins.host_runs import HostRuns
from services.plugins.instances import Instances
from services.plugins.ports_guest import GuestConnector
from services.plugins.preparation import Preparation
from services.plugins.registry import Registry
from services.plugins.settings import PluginsSettings
from services.plugins.stages import Stages

MIGRATIONS = tuple(
    (files("services.plugins") / name).read_text(encoding="utf-8")
    for name in ("schema.sql", "schema_2.sql", "schema_3.sql", "schema_4.sql", "schema_5.sql", "schema_6.sql")
)
INTRODUCE_INTERVAL_S = 60.0
UNPACK_DIR = Path(__file__).parent / "internal" / "unpack"

log = structlog.get_logger()


async def compose(runtime: Runtime, connector: GuestConnector | None = None) -> Service:
    """The service, speaking to guests over gRPC unless told otherwise.

    Raises SandboxUnavailable where host plugins could not be confined.
    """
    settings: PluginsSettings = runtime.settings
    connector = connector or GrpcGuestConnector(
        client_cert_file=settings.guest_client_cert_file, client_key_file=settings.guest_client_key_file
    )
    sandbox = BubblewrapRunner(scratch_dir=settings.scratch_dir)
    registry = Registry(read_catalogue((BUILTIN_DIR, *settings.plugin_dirs)))
    instances = Instances(sandbox, runtime.clock, most=settings.runs_at_once)
    runs = HostRuns(instances, settings.scratch_dir, runs_at_once=settings.runs_at_once)
    runs.sweep()
    await sandbox.probe()
    preparation = Preparation(
        runtime.store,
        runtime.blobs,
        runs,
        identity=Plugin(load_manifest(BUILTIN_DIR / "identity"), BUILTIN_DIR / "identity"),
        unpack=Plugin(load_manifest(UNPACK_DIR), UNPACK_DIR),
    )
    cancellations = Cancellations(runtime.store)
    guest = GuestStage(
        connector,
        runtime.blobs,
        registry,
        cancellations,
        scratch_dir=settings.scratch_dir,
        connect_timeout_s=settings.guest_connect_timeout_s,
    )
    stages = Stages(
        store=runtime.store,
        blobs=runtime.blobs,
        registry=registry,
        runs=runs,
        preparation=preparation,
        guest=guest,
        cancellations=cancellations,
    )

    async def on_start() -> None:
        await say_catalogue(runtime, registry.catalogue)

    return Service(
        handlers=HANDLERS,
        runners=(stages.runner(stages_at_once=settings.stages_at_once),),
        routers=(instances_router(instances), router(registry)),
        expiries=(Expiry("late_results", "recorded_at", rows.LATE_DAYS),),
        background=(
            partial(repeat_catalogue, runtime, registry),
            partial(instances.run, registry.catalogue.plugins.values),
        ),
        on_start=on_start,
    )


async def repeat_catalogue(runtime: Runtime, registry: Registry) -> None:
    """Whoever lost the word of a plugin, as a broker that lost its data does, hears it again within a minute."""
    while True:
        await asyncio.sleep(INTRODUCE_INTERVAL_S)
        unit, catalogue = runtime.unit(), registry.catalogue
        for name in sorted(catalogue.plugins):
            unit.say(PluginRegistered(manifest=catalogue.plugins[name].public()))
        try:
            await runtime.store.commit(unit)
        except TransientError as error:
            log.warning("catalogue_was_not_repeated", reason=str(error))


async def say_catalogue(runtime: Runtime, catalogue: Catalogue) -> None:
    """Everybody knows which plugins there are, which are there no more, and which folders are none."""
    unit = runtime.unit()
    for row in await runtime.store.fetch("SELECT name FROM registered ORDER BY name"):
        if row["name"] not in catalogue.plugins:
            unit.say(PluginRemoved(name=row["name"]))
    names = sorted(catalogue.plugins)
    unit.execute("DELETE FROM registered WHERE name <> ALL($1::text[])", names)
    unit.execute("INSERT INTO registered SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", names)
    for name in names:
        unit.say(PluginRegistered(manifest=catalogue.plugins[name].public()))
    for rejected in catalogue.rejected:
        unit.say(PluginRejected(folder=rejected.folder, reason=rejected.reason))
    await runtime.store.commit(unit)
