"""The agent before a lease: says who it is, and enrols for exactly one lease. Nothing else is served."""

import secrets
import threading
from typing import NoReturn

import grpc

from contracts.guest import agent_pb2 as pb
from contracts.guest.agent_pb2_grpc import AgentServicer
from guest import limits
from guest.canary import Canary, CanaryRefused
from guest.enrolment import Bundle, EnrolmentRefused, Grant, make_request
from guest.hello import hello_reply
from guest.platforms import Platform, PlatformRefused
from guest.settings import AgentSettings


class EnrolmentService(AgentServicer):
    """Serves Hello, Enrol and Install; `granted` is set when the host installed a certificate."""

    def __init__(self, settings: AgentSettings, platform: Platform, bundle: Bundle) -> None:
        self._settings = settings
        self._platform = platform
        self._bundle = bundle
        self._lock = threading.Lock()
        self._instance_id = secrets.token_hex(16)
        self._lease: tuple[str, int, str] | None = None
        self._key_pem = ""
        self._canary = Canary(settings)
        self._mark = ""
        self._request_pem = b""
        self.grant: Grant | None = None
        self.granted = threading.Event()

    def Hello(self, request: pb.HelloRequest, context: grpc.ServicerContext) -> pb.HelloReply:  # noqa: N802
        """Who answers."""
        return hello_reply(
            request,
            context,
            settings=self._settings,
            platform=self._platform,
            canary=self._canary,
            machine_id=self._bundle.machine_id,
            instance_id=self._instance_id,
            is_fresh=self._lease is None,
        )

    def Enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> pb.EnrolReply:  # noqa: N802
        """Clock and entropy are in, a request for the lease's certificate is out."""
        if request.machine_id != self._bundle.machine_id:
            _refuse(context, grpc.StatusCode.PERMISSION_DENIED, "this is another machine")
        if not request.lease_id or len(request.entropy) not in range(32, limits.ENTROPY_MAX_BYTES + 1):
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "no lease, or too little or too much entropy")
        lease = (request.lease_id, request.epoch, request.server_identity)
        with self._lock:
            if self._lease not in (None, lease):
                _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "enrolled for another lease already")
            if self._lease is None:
                self._enrol(request, context)
                self._lease = lease
            return pb.EnrolReply(certificate_request_pem=self._request_pem)

    def Install(self, request: pb.InstallRequest, context: grpc.ServicerContext) -> pb.InstallReply:  # noqa: N802
        """The certificate is in; the enrolment is over."""
        with self._lock:
            if self._lease is None or (request.lease_id, request.epoch) != self._lease[:2]:
                _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "not enrolled for this lease")
            self.grant = Grant(
                machine_id=self._bundle.machine_id,
                lease_id=request.lease_id,
                epoch=request.epoch,
                certificate_pem=request.certificate_pem.decode("ascii", "replace"),
                key_pem=self._key_pem,
                client_ca_pem=self._bundle.client_ca_pem,
                canary=self._mark,
            )
        self.granted.set()
        return pb.InstallReply()

    def _enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> None:
        try:
            self._platform.mix_entropy(request.entropy)
            if self._settings.may_set_clock:
                self._platform.set_clock(request.wall_clock_ns)
            self._canary.plant(request.canary)
            self._mark = request.canary.decode("ascii", "replace")
            self._key_pem, self._request_pem = make_request(request.server_identity)
        except (PlatformRefused, EnrolmentRefused, CanaryRefused) as error:
            _refuse(context, grpc.StatusCode.INTERNAL, str(error))


def _refuse(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str) -> NoReturn:
    context.abort(code, reason)
    raise AssertionError  # abort raises
