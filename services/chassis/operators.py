"""What every service lets an operator see and decide over HTTP. Administrators only; deciding takes a reason."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from contracts.limits import REASON_MAX_CHARS
from services.chassis.http import Caller, Identity, Problem
from services.chassis.parked import AlreadyDecided, ParkedMessages, UnknownMessage, Word
from services.chassis.rebuild import Rebuilds, UnknownProjection

PAGE_MAX = 200


def administrator(caller: Caller) -> Identity:
    """The caller, who is an administrator. Raises Problem 403."""
    if not caller.is_admin:
        raise Problem(403, "forbidden", "Only an administrator may do this.")
    return caller


Administrator = Annotated[Identity, Depends(administrator)]


class Decision(BaseModel):
    """Why an operator decides so, for the record."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    reason: str = Field(min_length=1, max_length=REASON_MAX_CHARS, pattern=r"^[^\x00]*$", description="why")

    def by(self, caller: Identity) -> Word:
        """The decision as it is recorded."""
        return Word(caller.subject, self.reason)


def dead_router(service: str, parked: ParkedMessages) -> APIRouter:
    """GET /dead/{service}, GET /dead/{service}/{id}, POST …/replay, POST …/drop."""
    routes = APIRouter(prefix=f"/dead/{service}", tags=["dead letters"])

    @routes.get("")
    async def list_dead(
        _caller: Administrator,
        state: Literal["parked", "replayed", "dropped"] | None = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
        after: Annotated[str | None, Query(max_length=64)] = None,
    ) -> dict[str, Any]:
        """Messages that the service could not handle, the latest first; `next` is the `after` of the following page."""
        items = await parked.page(state, limit, after)
        return {"items": items[:limit], "next": items[limit - 1]["id"] if len(items) > limit else None}

    @routes.get("/{message_id}")
    async def show_dead(message_id: str, _caller: Administrator) -> dict[str, Any]:
        """One of them with its body, and what operators did about it."""
        return await _shown(parked, message_id)

    @routes.post("/{message_id}/replay", status_code=202)
    async def replay_dead(message_id: str, caller: Administrator, decision: Decision) -> dict[str, Any]:
        """The message is put back to its queue, again each time this is said until it was handled. 409 when dropped."""
        await _decided(parked.replay(message_id, decision.by(caller)))
        return await _shown(parked, message_id)

    @routes.post("/{message_id}/drop", status_code=202)
    async def drop_dead(message_id: str, caller: Administrator, decision: Decision) -> dict[str, Any]:
        """Nobody will handle the message. 409 when it was replayed and has not come back."""
        await _decided(parked.drop(message_id, decision.by(caller)))
        return await _shown(parked, message_id)

    return routes


def projections_router(service: str, rebuilds: Rebuilds) -> APIRouter:
    """GET /projections/{service}, POST /projections/{service}/{name}/rebuild."""
    routes = APIRouter(prefix=f"/projections/{service}", tags=["projections"])

    @routes.get("")
    async def list_projections(_caller: Administrator) -> dict[str, Any]:
        """What is made from the service's events: how far behind each is, and its last rebuild with who and why."""
        return {"items": await rebuilds.listed()}

    @routes.post("/{name}/rebuild", status_code=202)
    async def rebuild_projection(name: str, caller: Administrator, decision: Decision) -> dict[str, Any]:
        """The projection is made again from its events, while it is read; one that runs is not begun anew."""
        try:
            await rebuilds.ask(name, decision.by(caller))
        except UnknownProjection as error:
            known = [each["projection"] for each in await rebuilds.listed()]
            raise Problem(404, "unknown_projection", str(error), allowed=known) from error
        return next(each for each in await rebuilds.listed() if each["projection"] == name)

    return routes


async def _shown(parked: ParkedMessages, message_id: str) -> dict[str, Any]:
    try:
        return await parked.show(message_id)
    except UnknownMessage as error:
        raise Problem(404, "unknown_message", str(error)) from error


async def _decided(decision: Any) -> None:
    try:
        await decision
    except UnknownMessage as error:
        raise Problem(404, "unknown_message", str(error)) from error
    except AlreadyDecided as error:
        raise Problem(409, "already_decided", str(error)) from error
