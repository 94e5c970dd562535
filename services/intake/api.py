"""HTTP in: submissions, what they may ask for, and the proof of identity that the gateway asks for."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from hashlib import sha256
from hmac import compare_digest
from typing import Annotated, Any, get_args

import structlog
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from contracts.ids import new
from contracts.submission import ChildKind, Package, Tlp
from services.chassis.blobs import BlobStore, BlobStoreFailed
from services.chassis.clock import Clock
from services.chassis.http import API_PREFIX, Caller, Identity, Problem
from services.intake import policy
from services.intake.adapters.backlog import Backlog
from services.intake.adapters.tables import PAGE_MAX, Tables
from services.intake.adapters.upload import OVERHEAD_MAX_BYTES, Upload, received
from services.intake.app import Submission, decide, fingerprint
from services.intake.domain.form import OPTIONS, REPEATABLE, read_form
from services.intake.errors import NotYet, Refusal
from services.intake.settings import IntakeSettings

KEY_PATTERN = re.compile(r"[\x21-\x7e]{1,200}")
TOKEN_MAX_CHARS = 512
DRAIN_MAX_BYTES = 16 * 1024 * 1024
DRAIN_TIMEOUT_S = 2.0
BUSY_RETRY_S = 2
ID_MAX_CHARS = 64

log = structlog.get_logger()


class RefusingRoute(APIRoute):
    """A route whose refusals are problems (RFC 9457), whichever room they come from."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with intake's errors in the API's shape."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                return await handle(request)
            except Refusal as error:
                raise Problem(
                    error.status, error.code, error.detail, pointer=error.pointer, allowed=error.allowed
                ) from error
            except NotYet as error:
                raise Problem(error.status, error.code, error.detail, retry_after_s=error.retry_after_s) from error
            except BlobStoreFailed as error:
                log.warning("sample_could_not_be_stored", reason=str(error))
                detail = "The sample cannot be stored now; nothing was accepted."
                raise Problem(503, "storage_unavailable", detail, retry_after_s=BUSY_RETRY_S) from error

        return translated


def build_router(  # noqa: C901 - a list of routes
    settings: IntakeSettings, tables: Tables, backlog: Backlog, blobs: BlobStore, clock: Clock
) -> APIRouter:
    """Intake's routes."""
    router = APIRouter(route_class=RefusingRoute, tags=["intake"])
    desk = Desk(settings, tables, backlog, blobs, clock)

    async def owned(submission_id: str, who: Identity) -> Submission:
        known = submission_id.isascii() and submission_id.isprintable() and len(submission_id) <= ID_MAX_CHARS
        submission = await tables.find(submission_id) if known else None
        if submission is None or not who.may_see(submission.owner):
            raise Problem(404, "not_found", "There is no such submission.")
        return submission

    @router.post("/submissions", status_code=202, openapi_extra=_form_schema())
    async def submit(request: Request, who: Caller) -> JSONResponse:
        """Sample and tasks are durable when this answers 202. `Idempotency-Key` makes a repeat harmless."""
        async with desk.a_place():
            try:
                submission = await desk.take(request, who)
            except (Refusal, NotYet):
                await _drain(request)
                raise
        location = f"{API_PREFIX}/submissions/{submission.submission_id}"
        return JSONResponse(submission.as_json(), 202, {"Location": location})

    @router.get("/submissions")
    async def list_submissions(
        who: Caller,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
        after: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    ) -> dict[str, Any]:
        """The newest first; `next`, when there is more, goes into `after`."""
        owner = None if who.is_admin else who.subject
        found, following = await tables.page(owner=owner, before=after, limit=limit)
        return {"items": [each.as_json() for each in found], "next": following}

    @router.get("/submissions/options")
    async def options(_who: Caller) -> dict[str, Any]:
        """What a submission may ask for here and now."""
        return _options(settings, await tables.catalogue())

    @router.get("/submissions/{submission_id}")
    async def show_submission(submission_id: str, who: Caller) -> dict[str, Any]:
        """One submission with its tasks, and those of files found inside their samples."""
        submission = await owned(submission_id, who)
        return {**submission.as_json(), "children": [task.as_json() for task in await tables.children(submission)]}

    @router.post("/submissions/{submission_id}/cancel", status_code=202)
    async def cancel_submission(submission_id: str, who: Caller) -> dict[str, Any]:
        """Every task of the submission that is not over will end."""
        submission = await owned(submission_id, who)
        await tables.request_cancellation(submission, who.subject)
        return submission.as_json()

    @router.get("/auth", status_code=204)
    async def prove(request: Request) -> Response:
        """For the gateway only: whose token it is."""
        _check_gateway(request)
        if not is_admin_token(request.headers.get("authorization", ""), settings.admin_token_sha256):
            raise Problem(401, "unauthenticated", "Send a valid token: Authorization: Bearer <token>.")
        return Response(status_code=204, headers={"X-Malbox-Subject": "admin", "X-Malbox-Roles": "admin"})

    return router


def is_admin_token(authorization: str, expected_sha256: str) -> bool:
    """Whether the header carries the administrator's token. Takes the same time wherever it differs."""
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > TOKEN_MAX_CHARS:
        return False
    presented = sha256(token.encode("utf-8", errors="surrogateescape")).hexdigest()
    return compare_digest(presented, expected_sha256)


class Desk:
    """Takes submissions in, a bounded number at once."""

    def __init__(
        self, settings: IntakeSettings, tables: Tables, backlog: Backlog, blobs: BlobStore, clock: Clock
    ) -> None:
        self._settings = settings
        self._tables = tables
        self._backlog = backlog
        self._blobs = blobs
        self._clock = clock
        self._places = asyncio.Semaphore(settings.uploads_max)

    def a_place(self) -> asyncio.Semaphore:
        """A place for one upload, held while it is entered. Raises NotYet when all are taken."""
        if self._places.locked():
            raise NotYet(
                "too_many_uploads",
                f"{self._settings.uploads_max} uploads are running; try again.",
                retry_after_s=BUSY_RETRY_S,
            )
        return self._places

    async def take(self, request: Request, who: Identity) -> Submission:
        """The submission is durable: bytes first, then row and messages at once. Raises Refusal, NotYet."""
        key = _idempotency_key(request)
        self._check_announced_size(request)
        async with received(
            request.stream(),
            content_type=request.headers.get("content-type", ""),
            scratch_dir=self._settings.scratch_dir,
            sample_max_bytes=self._settings.sample_max_bytes,
            idle_timeout_s=self._settings.upload_idle_timeout_s,
        ) as upload:
            submission = await self._take(upload, who.subject, key)
        log.info("submission_accepted", submission_id=submission.submission_id, tasks=len(submission.tasks))
        return submission

    async def _take(self, upload: Upload, owner: str, key: str | None) -> Submission:
        print_ = fingerprint(upload.blob, upload.name_sent, upload.fields)
        if key is not None and (earlier := await self._tables.find_by_key(owner, key)) is not None:
            return _same(earlier, print_)
        asked = read_form(upload.fields)
        catalogue = await self._tables.catalogue()
        requests = policy.requests(asked, catalogue, default_profile=self._settings.default_profile)
        await self._backlog.make_room(owner, len(requests))
        await self._keep(upload)
        submission = decide(
            submission_id=new("sub", self._clock.uuid()),
            owner=owner,
            idempotency_key=key,
            fingerprint=print_,
            blob=upload.blob,
            name_sent=upload.name_sent,
            requests=requests,
            at=self._clock.now(),
        )
        return _same(await self._tables.add(submission), print_)

    async def _keep(self, upload: Upload) -> None:
        if isinstance(upload.content, bytes):
            await self._blobs.put_bytes(upload.content, known=upload.blob)
        else:
            await self._blobs.put_file(upload.content, known=upload.blob)

    def _check_announced_size(self, request: Request) -> None:
        announced = request.headers.get("content-length", "")
        most = self._settings.sample_max_bytes + OVERHEAD_MAX_BYTES
        if announced.isascii() and announced.isdigit() and int(announced[:20]) > most:
            raise Refusal(
                "sample_too_large",
                f"The upload has {announced[:20]} bytes; the limit for a sample is "
                f"{self._settings.sample_max_bytes} (sample_max_bytes of intake).",
                pointer="/file",
                status=413,
            )


def _same(standing: Submission, print_: str) -> Submission:
    if standing.fingerprint != print_:
        raise Refusal(
            "idempotency_key_reused",
            f"This Idempotency-Key already stands for {standing.submission_id}, which had other content.",
            pointer="/Idempotency-Key",
        )
    return standing


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not KEY_PATTERN.fullmatch(key):
        raise Refusal(
            "invalid_value",
            "Idempotency-Key takes 1 to 200 printable ASCII characters without spaces.",
            pointer="/Idempotency-Key",
        )
    return key


def _check_gateway(request: Request) -> None:
    secret = request.headers.get("x-malbox-gateway", "")
    if not compare_digest(secret.encode(), str(request.app.state.gateway_secret).encode()):
        raise Problem(401, "unauthenticated", "Only the gateway may ask this.")


async def _drain(request: Request) -> None:
    """A client that still sends is read for a moment, because closing on it would lose it the answer."""
    left = DRAIN_MAX_BYTES

    async def discard(chunks: AsyncIterator[bytes]) -> None:
        nonlocal left
        async for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                return

    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            await discard(request.stream())
    except Exception as error:  # noqa: BLE001 - the refusal is what the caller gets, whatever happens here
        log.debug("drain_ended", reason=repr(error))


def _options(settings: IntakeSettings, catalogue: policy.Catalogue) -> dict[str, Any]:
    return {
        "sample_max_bytes": settings.sample_max_bytes,
        "fields": OPTIONS,
        "packages": get_args(Package),
        "tlp": get_args(Tlp),
        "profiles": catalogue.profiles,
        "default_profile": settings.default_profile,
        "routes": catalogue.routes,
        "children": {
            "depth_max": settings.child_depth_max,
            "per_task_max": settings.children_per_task_max,
            "tasks_per_submission_max": settings.tasks_per_submission_max,
            "bytes_max": settings.children_bytes_max,
            "kinds": get_args(ChildKind),
        },
        "machines": [machine.model_dump(mode="json") for machine in catalogue.machines.values()],
        "plugins": [plugin.model_dump(mode="json") for plugin in catalogue.plugins.values()],
        "machines_unread": catalogue.machines_unread,
        "plugins_unread": catalogue.plugins_unread,
    }


def _form_schema() -> dict[str, Any]:
    text = {"type": "string"}
    properties: dict[str, Any] = {
        name: {"type": "array", "items": text} if name in REPEATABLE else text for name in OPTIONS
    }
    properties["file"] = {"type": "string", "format": "binary"}
    schema = {"type": "object", "required": ["file"], "properties": properties, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
