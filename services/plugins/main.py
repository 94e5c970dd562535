"""What is plugged into what in the plugins service."""

from functools import partial
from importlib.resources import files
from pathlib import Path

from malbox.sdk.manifest import load_manifest
from services.chassis.run import Runtime, Service
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.adapters.folders import BUILTIN_DIR
from services.plugins.adapters.guest_agent import GrpcGuestConnector
from services.plugins.adapters.versions import KeptVersions
from services.plugins.adapters.watching import WatchedFolders
from services.plugins.api import router
from services.plugins.api_instances import instances_router
from services.plugins.api_runs import runs_router
from services.plugins.cancellations import Cancellations
from services.plugins.children import RUNNER as CONFIRMING
from services.plugins.children import Children
from services.plugins.domain.catalogue import Plugin
from services.plugins.expiries import EXPIRIES
from services.plugins.guest_stage import GuestStage
from services.plugins.handlers import HANDLERS
from services.plugins.host_runs import HostRuns
from services.plugins.instances import Instances
from services.plugins.ports_guest import GuestConnector
from services.plugins.preparation import Preparation
from services.plugins.quarantine import Quarantine
from services.plugins.reconciling import Reconciler
from services.plugins.registry import Registry
from services.plugins.settings import PluginsSettings
from services.plugins.stages import Stages
from services.plugins.task_news import TaskNews

MIGRATIONS = tuple(
    (files("services.plugins") / name).read_text(encoding="utf-8")
    for name in (
        "schema.sql",
        "schema_2.sql",
        "schema_3.sql",
        "schema_4.sql",
        "schema_5.sql",
        "schema_6.sql",
        "schema_7.sql",
        "schema_8.sql",
        "schema_9.sql",
        "schema_10.sql",
        "schema_11.sql",
        "schema_12.sql",
    )
)
VERSIONS = "versions"
UNPACK_DIR = Path(__file__).parent / "internal" / "unpack"


async def compose(runtime: Runtime, connector: GuestConnector | None = None) -> Service:
    """The service, speaking to guests over gRPC unless told otherwise.

    Raises SandboxUnavailable where host plugins could not be confined.
    """
    settings: PluginsSettings = runtime.settings
    connector = connector or GrpcGuestConnector(
        client_cert_file=settings.guest_client_cert_file, client_key_file=settings.guest_client_key_file
    )
    sandbox = BubblewrapRunner(scratch_dir=settings.scratch_dir, groups=settings.sandbox_groups)
    versions = KeptVersions(settings.scratch_dir / VERSIONS)
    versions.sweep()
    source = WatchedFolders(BUILTIN_DIR, settings.plugin_dirs, versions)
    registry = Registry(await source.read(), versions)
    quarantine = Quarantine(runtime.store)
    await quarantine.load()
    instances = Instances(sandbox, runtime.clock, most=settings.runs_at_once, quarantine=quarantine)
    reconciler = Reconciler(runtime, registry, source, versions, instances)
    runs = HostRuns(instances, settings.scratch_dir, runs_at_once=settings.runs_at_once)
    runs.sweep()
    await sandbox.probe()
    identity, unpack = (Plugin(load_manifest(folder), folder) for folder in (BUILTIN_DIR / "identity", UNPACK_DIR))
    preparation = Preparation(runtime.store, runtime.blobs, runs, identity=identity, unpack=unpack)
    cancellations = Cancellations(runtime.store)
    news = TaskNews(runtime.store)
    guest = GuestStage(
        connector,
        runtime.blobs,
        registry,
        cancellations,
        news,
        scratch_dir=settings.scratch_dir,
        connect_timeout_s=settings.guest_connect_timeout_s,
    )
    stages = Stages(
        store=runtime.store,
        blobs=runtime.blobs,
        registry=registry,
        runs=runs,
        preparation=preparation,
        children=Children(runtime.store, runtime.blobs, runs, identity=identity),
        guest=guest,
        cancellations=cancellations,
    )

    return Service(
        handlers=HANDLERS,
        runners=(stages.runner(stages_at_once=settings.stages_at_once), CONFIRMING),
        routers=(instances_router(instances), runs_router(runtime.store), router(registry, instances)),
        expiries=EXPIRIES,
        background=(
            reconciler.run,
            source.watch,
            partial(instances.run, lambda: (*registry.plugins(), identity, unpack)),
        ),
        on_start=reconciler.start,
        condition=lambda: {"sandbox": sandbox.condition},
    )
