"""The HTTP edge: who is calling, one shape of error (RFC 9457), health, and a server that ends with its service."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Annotated, Any

import structlog
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from services.chassis.store import StoreUnavailable

API_PREFIX = "/api/v1"
PROBLEM_TYPE = "application/problem+json"
BACKLOG = 512
log = structlog.get_logger()


class Problem(Exception):
    """A refusal that the caller can act on: status, a stable code, words, and the valid choices where there are any."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        pointer: str | None = None,
        allowed: Sequence[str] | None = None,
        retry_after_s: int | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s
        self.body: dict[str, Any] = {
            "type": f"urn:malbox:problem:{code}",
            "title": code.replace("_", " "),
            "status": status,
            "detail": detail,
            "code": code,
            **extra,
        }
        if pointer is not None:
            self.body["pointer"] = pointer
        if allowed is not None:
            self.body["allowed"] = list(allowed)

    def response(self) -> JSONResponse:
        """The problem as an HTTP response."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return JSONResponse(self.body, self.status, headers, media_type=PROBLEM_TYPE)


@dataclass(frozen=True)
class Identity:
    """Who calls, as intake proved it to the gateway."""

    subject: str
    roles: frozenset[str]

    @property
    def is_admin(self) -> bool:
        """Whether every object is open to the caller."""
        return "admin" in self.roles

    def may_see(self, owner: str) -> bool:
        """Whether the caller may see what `owner` owns."""
        return self.is_admin or self.subject == owner


async def caller(request: Request) -> Identity:
    """The identity that the gateway passed on. Raises Problem 401 for a request that did not come through it."""
    subject = request.headers.get("x-malbox-subject", "")
    secret = request.headers.get("x-malbox-gateway", "")
    if not subject or not compare_digest(secret.encode(), str(request.app.state.gateway_secret).encode()):
        raise Problem(401, "unauthenticated", "Send a valid token: Authorization: Bearer <token>.")
    roles = frozenset(filter(None, request.headers.get("x-malbox-roles", "").split(",")))
    return Identity(subject, roles)


Caller = Annotated[Identity, Depends(caller)]
Readiness = Callable[[], Awaitable[dict[str, Any]]]


def build_app(
    *, service: str, version: str, gateway_secret: str, routers: Sequence[APIRouter], readiness: Readiness
) -> FastAPI:
    """The service's HTTP application: its routers and its health under /api/v1, every error a problem."""
    app = FastAPI(
        title=f"Malbox {service}",
        version=version,
        openapi_url=f"{API_PREFIX}/openapi/{service}.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.gateway_secret = gateway_secret
    for router in routers:
        app.include_router(router, prefix=API_PREFIX)

    @app.get(f"{API_PREFIX}/health/{service}", tags=["health"])
    async def health() -> JSONResponse:
        """Whether consumers, store and relay work. 503 when one does not."""
        state = await readiness()
        return JSONResponse({"service": service, **state}, 200 if state["is_ready"] else 503)

    _install_problem_handlers(app)
    return app


def _install_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def on_problem(_request: Request, error: Problem) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def on_http_error(_request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed"}
        return Problem(error.status_code, codes.get(error.status_code, "refused"), str(error.detail)).response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        pointer = "/" + "/".join(str(part) for part in first["loc"])
        return Problem(422, "invalid_request", str(first["msg"]), pointer=pointer).response()

    @app.exception_handler(StoreUnavailable)
    async def on_store_down(_request: Request, error: StoreUnavailable) -> JSONResponse:
        log.warning("request_met_no_store", reason=str(error))
        detail = "The database cannot be used right now; nothing was accepted. Try again."
        return Problem(503, "store_unavailable", detail, retry_after_s=2).response()

    @app.exception_handler(Exception)
    async def on_defect(_request: Request, error: Exception) -> JSONResponse:
        log.error("request_failed", exc_info=error)
        return Problem(500, "internal_error", "The request failed by a fault of Malbox; it was logged.").response()


class Server(uvicorn.Server):
    """Uvicorn without signal handlers of its own: the service decides when it ends."""

    def __init__(self, app: FastAPI, *, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=3,
                server_header=False,
            )
        )

    def capture_signals(self) -> Any:
        """Signals are the service's."""
        return contextlib.nullcontext()
