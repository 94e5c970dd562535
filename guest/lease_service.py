"""The agent of one lease: every call is checked against the lease, the epoch and the term, and then is a step."""

import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import NoReturn, TypeVar

import grpc

from contracts.guest import agent_pb2 as pb
from contracts.guest.agent_pb2_grpc import AgentServicer
from guest import limits
from guest.canary import Canary
from guest.enrolment import Grant
from guest.hello import hello_reply
from guest.platforms import Platform, PlatformRefused
from guest.receiving import StepRefused
from guest.session import Session
from guest.settings import AgentSettings

Reply = TypeVar("Reply")


class LeaseService(AgentServicer):
    """Serves one grant; `shut_down` is set when the host said that it is done."""

    def __init__(self, settings: AgentSettings, platform: Platform, grant: Grant, session: Session) -> None:
        self._settings = settings
        self._platform = platform
        self._grant = grant
        self._session = session
        self._canary = Canary(settings)
        self._canary.keep(grant.canary.encode())
        self._instance_id = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._term = 0
        self._watcher = 0
        self.shut_down = threading.Event()

    def Hello(self, request: pb.HelloRequest, context: grpc.ServicerContext) -> pb.HelloReply:  # noqa: N802
        """Who answers."""
        return hello_reply(
            request,
            context,
            settings=self._settings,
            platform=self._platform,
            canary=self._canary,
            machine_id=self._grant.machine_id,
            instance_id=self._instance_id,
            is_fresh=False,
            lease_id=self._grant.lease_id,
        )

    def Enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> pb.EnrolReply:  # noqa: N802
        """Refused: one lease per incarnation."""
        del request
        _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "this incarnation is enrolled already")

    def Install(self, request: pb.InstallRequest, context: grpc.ServicerContext) -> pb.InstallReply:  # noqa: N802
        """Refused: as above."""
        del request
        _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "this incarnation is enrolled already")

    def SetClock(self, request: pb.SetClockRequest, context: grpc.ServicerContext) -> pb.SetClockReply:  # noqa: N802
        """The clock is set, if the settings allow it."""
        self._check(request.lease, context)
        if not self._settings.may_set_clock:
            return pb.SetClockReply(is_set=False)
        _step(context, lambda: self._platform.set_clock(request.wall_clock_ns))
        return pb.SetClockReply(is_set=True)

    def Put(self, request_iterator: Iterator[pb.PutFrame], context: grpc.ServicerContext) -> pb.PutReply:  # noqa: N802
        """The sample stands where the reply says."""
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("part") != "header":
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "the first frame is not a header")
        term = self._check(first.header.lease, context)
        pieces = self._pieces(request_iterator, term, context)
        return pb.PutReply(path=_step(context, lambda: self._session.put(first.header, pieces)))

    def InitPlugin(  # noqa: N802
        self, request: pb.InitPluginRequest, context: grpc.ServicerContext
    ) -> pb.InitPluginReply:
        """The guest plugin is ready."""
        self._check(request.lease, context)
        bundle = request.bundle if request.HasField("bundle") else None
        version = _step(context, lambda: self._session.init_plugin(request.name, request.config_json, bundle))
        return pb.InitPluginReply(version=version)

    def Tell(self, request: pb.TellRequest, context: grpc.ServicerContext) -> pb.TellReply:  # noqa: N802
        """The fact is on its way to the plugin."""
        self._check(request.lease, context)
        return pb.TellReply(is_taken=_step(context, lambda: self._session.tell(request)))

    def Arm(self, request: pb.CallRequest, context: grpc.ServicerContext) -> pb.ArmReply:  # noqa: N802
        """Every plugin observes."""
        self._check(request.lease, context)
        _step(context, self._session.arm)
        return pb.ArmReply()

    def Launch(self, request: pb.LaunchRequest, context: grpc.ServicerContext) -> pb.LaunchReply:  # noqa: N802
        """The program runs."""
        self._check(request.lease, context)
        return _step(context, lambda: self._session.launch(request))

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[pb.Event]:  # noqa: N802
        """Events from the position on, and a heartbeat every second, until the record is sealed and read."""
        term = self._check(request.lease, context)
        with self._lock:
            self._watcher += 1
            watcher = self._watcher
        position, beat, beat_due = request.after_position, 0, 0.0
        journal = self._session.journal
        while context.is_active() and watcher == self._watcher and not journal.is_read(position):
            self._refuse_replaced(term, context)
            if time.monotonic() >= beat_due:
                beat, beat_due = beat + 1, time.monotonic() + limits.HEARTBEAT_S
                yield self._heartbeat(beat, journal.last_position)
            for event in journal.after(position, wait_s=max(0.0, beat_due - time.monotonic())):
                position = event.position
                self._refuse_replaced(term, context)
                yield event

    def Flush(self, request: pb.CallRequest, context: grpc.ServicerContext) -> pb.FlushReply:  # noqa: N802
        """The observation is over."""
        self._check(request.lease, context)
        return _step(context, self._session.flush)

    def Collect(self, request: pb.CallRequest, context: grpc.ServicerContext) -> Iterator[pb.CollectFrame]:  # noqa: N802
        """The files that the sample wrote."""
        term = self._check(request.lease, context)
        for frame in _step(context, self._session.collect):
            self._refuse_replaced(term, context)
            yield frame

    def ShutdownPlugin(  # noqa: N802
        self, request: pb.ShutdownPluginRequest, context: grpc.ServicerContext
    ) -> pb.ShutdownPluginReply:
        """The guest plugin is gone."""
        self._check(request.lease, context)
        return _step(context, lambda: self._session.shutdown_plugin(request.name))

    def Settings(self, request: pb.CallRequest, context: grpc.ServicerContext) -> pb.SettingsReply:  # noqa: N802
        """The effective settings."""
        self._check(request.lease, context)
        return pb.SettingsReply(settings=self._settings.as_strings())

    def Shutdown(self, request: pb.CallRequest, context: grpc.ServicerContext) -> pb.ShutdownReply:  # noqa: N802
        """Nothing of the sample runs, and the agent serves no more."""
        self._check(request.lease, context)
        _step(context, self._session.close)
        self.shut_down.set()
        return pb.ShutdownReply()

    def _pieces(
        self, frames: Iterator[pb.PutFrame], term: int, context: grpc.ServicerContext
    ) -> Generator[bytes, None, None]:
        for frame in frames:
            self._refuse_replaced(term, context)
            yield frame.piece

    def _check(self, lease: pb.Lease, context: grpc.ServicerContext) -> int:
        """The call's term. Aborts one that is made for another lease or epoch, or by a driver that was replaced."""
        if (lease.lease_id, lease.epoch) != (self._grant.lease_id, self._grant.epoch):
            _refuse(context, grpc.StatusCode.PERMISSION_DENIED, "this machine serves another lease")
        with self._lock:
            self._term = max(self._term, lease.term)
        self._refuse_replaced(lease.term, context)
        return lease.term

    def _refuse_replaced(self, term: int, context: grpc.ServicerContext) -> None:
        """Aborts what a driver does, or still does, after a later one has called."""
        if term < self._term:
            reason = f"a later driver took this lease over: term {self._term}, not {term}"
            _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, reason)

    def _heartbeat(self, beat: int, last_position: int) -> pb.Event:
        return pb.Event(
            lease_id=self._grant.lease_id,
            epoch=self._grant.epoch,
            heartbeat=pb.Heartbeat(beat=beat, last_position=last_position),
        )


def _step(context: grpc.ServicerContext, step: Callable[[], Reply]) -> Reply:
    try:
        return step()
    except (StepRefused, PlatformRefused) as error:
        _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))


def _refuse(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str) -> NoReturn:
    context.abort(code, reason)
    raise AssertionError  # abort raises
