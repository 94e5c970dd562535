"""Named points at which a process can be made to die, so that tests may show that dying there loses nothing.

`MALBOX_CRASH_POINT=commit.before:3` kills the process the third time that it comes to the point, as a power cut would:
no handler runs, nothing is flushed. Without the variable a point costs one comparison.
"""

import contextlib
import functools
import inspect
import os
import signal
from collections.abc import Iterator
from enum import StrEnum
from itertools import count
from typing import Any, TypeVar, cast

import structlog

from services.chassis.errors import PermanentError

VARIABLE = "MALBOX_CRASH_POINT"

log = structlog.get_logger()
T = TypeVar("T")


class Point(StrEnum):
    """Every place where a process may be made to die."""

    COMMIT_BEFORE = "commit.before"
    """a unit is decided and not yet sent to the database"""
    COMMIT_AFTER = "commit.after"
    """the unit is committed and nobody here knows it yet"""
    CLAIM_AFTER = "claim.after"
    """work is claimed and not begun"""
    PUBLISH_BEFORE = "publish.before"
    """a unit is committed and what it said is not sent"""
    PUBLISH_CONFIRMED = "publish.confirmed"
    """the broker confirmed a message whose row still stands"""
    PUBLISH_AFTER = "publish.after"
    """the broker confirmed the messages, and their rows are gone"""
    ACK_BEFORE = "ack.before"
    """a message is handled and not acknowledged"""
    ACK_AFTER = "ack.after"
    """the message is acknowledged"""
    PROJECTION_BEFORE = "projection.before"
    """rows made from events are written in a transaction that is not committed"""
    PROJECTION_AFTER = "projection.after"
    """the rows and their checkpoint are committed"""
    BLOB_BEFORE = "blob.before"
    """a blob's bytes are written and not synced"""
    BLOB_AFTER = "blob.after"
    """the bytes are synced and nobody has heard of them"""
    FENCE_BEFORE = "fence.before"
    """a host's higher epoch is written beside the fence and not synced"""
    FENCE_AFTER = "fence.after"
    """the fence stands, and nothing was done under it"""
    RECORD_BEFORE = "record.before"
    """what is known of a snapshot, or of how an incarnation stood, is written beside its place and not synced"""
    RECORD_AFTER = "record.after"
    """that record stands, and nobody relied on it"""
    SNAPSHOT_BEFORE = "snapshot.before"
    """one of a warm snapshot's files is whole and not synced"""
    SNAPSHOT_AFTER = "snapshot.after"
    """the warm snapshot stands, and that is not recorded"""
    HOST_BEFORE = "host.before"
    """libvirt is about to make, move or end a domain, or the kernel to end an emulator"""
    HOST_AFTER = "host.after"
    """it did, in the middle of what the hypervisor was asked for"""
    HYPERVISOR_BEFORE = "hypervisor.before"
    """the hypervisor is about to be asked"""
    HYPERVISOR_AFTER = "hypervisor.after"
    """the hypervisor did it, and that is not recorded"""
    AGENT_BEFORE = "agent.before"
    """a guest's agent is about to be asked"""
    AGENT_AFTER = "agent.after"
    """the agent answered, and that is not recorded"""


class UnknownPoint(PermanentError):
    """there is no such crash point"""


class _Armed:
    """One point, and how many times it is passed before the process dies there."""

    def __init__(self, point: Point, nth: int) -> None:
        self._point = point
        self._nth = nth
        self._times = count(1)

    def pass_by(self, point: Point) -> None:
        if point is self._point and next(self._times) == self._nth:
            log.warning("crash_point_reached", point=point.value, nth=self._nth)
            os.kill(os.getpid(), signal.SIGKILL)


_armed: _Armed | None = None


def arm(text: str | None) -> None:
    """This process dies at `point[:nth]`, the first time when no number is given. Raises UnknownPoint."""
    global _armed  # noqa: PLW0603 - a process dies as a whole
    if not text:
        _armed = None
        return
    name, _, nth = text.partition(":")
    if name not in set(Point) or not (nth or "1").isdigit() or int(nth or 1) < 1:
        raise UnknownPoint(f"{VARIABLE}={text}: wanted is point[:nth] with a point of {', '.join(Point)}")
    _armed = _Armed(Point(name), int(nth or 1))


def reached(point: Point) -> None:
    """The process is at that point; it ends here if that was asked for."""
    if _armed is not None:
        _armed.pass_by(point)


@contextlib.contextmanager
def around(before: Point, after: Point) -> Iterator[None]:
    """Both points are passed, the second one only when the block did what it is for."""
    reached(before)
    yield
    reached(after)


def guarded(target: T, before: Point, after: Point) -> T:
    """The target itself; while some point is armed, a stand-in whose every awaited call passes both points."""
    return target if _armed is None else cast("T", _Guarded(target, before, after))


class _Guarded:
    def __init__(self, target: Any, before: Point, after: Point) -> None:
        self._target = target
        self._points = before, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if not inspect.iscoroutinefunction(method):
            return method

        @functools.wraps(method)
        async def call(*arguments: Any, **named: Any) -> Any:
            with around(*self._points):
                return await method(*arguments, **named)

        return call
