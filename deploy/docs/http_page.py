"""docs/reference/http.md: every route of every service, from the services' own routers. Nothing is connected to."""

import asyncio
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
from fastapi import APIRouter, FastAPI

from deploy.docs.conversation import first_sentence
from deploy.docs.shapes import cell, type_of
from deploy.local.routes import API
from deploy.local.state import SERVICES
from services.chassis.blobs import BlobStore
from services.chassis.clock import SystemClock
from services.chassis.http import build_app
from services.chassis.operators import dead_router, projections_router
from services.chassis.parked import ParkedMessages
from services.chassis.rebuild import Rebuilds
from services.chassis.run import Runtime, no_announcements, release
from services.chassis.settings import ServiceSettings
from services.chassis.store import Store
from services.intake.adapters.backlog import Backlog
from services.intake.adapters.tables import Tables
from services.intake.api import build_router as intake_router
from services.intake.settings import IntakeSettings
from services.machines.api import router as machines_router
from services.plugins.adapters.bubblewrap import BubblewrapRunner
from services.plugins.api import router as plugins_router
from services.plugins.api_instances import instances_router
from services.plugins.api_runs import runs_router
from services.plugins.domain.catalogue import Catalogue
from services.plugins.instances import Instances
from services.plugins.registry import Registry
from services.results.api import router as results_router
from services.scheduler.adapters.audit import AuditStream
from services.scheduler.api import router as scheduler_router
from services.scheduler.live import Live

NOWHERE = "127.0.0.1:9"  # the discard port: nothing is ever sent there
SECRET = "not a secret, for no gateway"  # noqa: S105 - it guards an application that serves nobody
METHODS = ("get", "post", "put", "patch", "delete")
HEAD = f"""# HTTP API

Generated from the services' routers by `make docs`; a test holds it to them. All paths stand under `{API}` of the one
origin, which `malbox status` prints. Send the token: `Authorization: Bearer …`. An error is a problem document
(RFC 9457): `type`, `title`, `status`, `detail`, `code`, and `pointer` and `allowed` where they help. The whole of it,
with every schema: `{API}/openapi/<service>.json`. What the fields of a submission mean:
[malbox submit](cli.md#malbox-submit) and [AnalysisRequest](messages.md#analysisrequest).
"""


def page() -> str:
    """The page."""
    return "\n".join([HEAD, *(line for service in SERVICES for line in _service(service))]) + "\n"


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """The OpenAPI document of each service."""
    return {service: app.openapi() for service, app in asyncio.run(_apps()).items()}


def operations(service: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of each route, paths as the origin has them."""
    for path, item in schemas()[service]["paths"].items():
        yield from ((method.upper(), path, item[method]) for method in METHODS if method in item)


async def _apps() -> dict[str, FastAPI]:
    """Each service's application over a store that is never opened and blobs that are nowhere."""
    with tempfile.TemporaryDirectory() as directory:
        store = Store(asyncpg.create_pool(f"postgresql://{NOWHERE}/none", min_size=0), "none")
        blobs = BlobStore(Path(directory))
        settings = IntakeSettings(admin_token_sha256="0" * 64, **_shared(Path(directory)).model_dump())
        runtime = Runtime(settings, store, blobs, SystemClock(), no_announcements)
        instances = Instances(BubblewrapRunner(), runtime.clock, most=1)
        routers = {
            "intake": (
                intake_router(
                    settings, Tables(store, runtime.unit), Backlog(store, queued_max=1), blobs, runtime.clock
                ),
            ),
            "scheduler": (scheduler_router(runtime, Live(), AuditStream(settings.amqp_url)),),
            "machines": (machines_router(runtime, lambda _machine: "", lambda _machine, _epoch: ""),),
            "plugins": (
                instances_router(instances),
                runs_router(store),
                plugins_router(Registry(Catalogue({}, ())), instances),
            ),
            "results": (results_router(store, blobs),),
        }
        parked, rebuilds = ParkedMessages(store, lambda: None), Rebuilds(store, {}, runtime.unit)
        return {
            service: _app(service, *own, dead_router(service, parked), projections_router(service, rebuilds))
            for service, own in routers.items()
        }


def _shared(directory: Path) -> ServiceSettings:
    return ServiceSettings(
        amqp_url=f"amqp://{NOWHERE}",
        database_url=f"postgresql://{NOWHERE}/none",
        blob_dir=directory,
        scratch_dir=directory,
        http_port=0,
        gateway_secret=SECRET,
    )


def _app(service: str, *routers: APIRouter) -> FastAPI:
    async def readiness() -> dict[str, Any]:
        return {"is_ready": False}

    return build_app(service=service, version=release(), gateway_secret=SECRET, routers=routers, readiness=readiness)


def _service(service: str) -> Iterator[str]:
    yield f"## {service}\n"
    for method, path, operation in operations(service):
        yield f"### {method} {path.removeprefix(API)}\n"
        yield f"{first_sentence(operation.get('description', operation.get('summary', '')))}\n"
        rows = [*_parameters(operation), *_form(operation)]
        if rows:
            yield from ("| parameter | in | type | meaning |", "|---|---|---|---|", *rows, "")


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    for parameter in operation.get("parameters", ()):
        required = "" if parameter.get("required") else ", optional"
        meaning = cell(parameter.get("description", ""))
        kind = cell(type_of(parameter["schema"]))
        yield f"| `{parameter['name']}` | {parameter['in']}{required} | {kind} | {meaning} |"


def _form(operation: dict[str, Any]) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("multipart/form-data", {}).get("schema", {})
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        optional = "" if name in required else ", optional"
        yield f"| `{name}` | form{optional} | {cell(type_of(field))} | {cell(field.get('description', ''))} |"
