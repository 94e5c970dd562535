"""The agent's answer to Hello, in both of its phases."""

import grpc

from contracts.guest import agent_pb2 as pb
from guest import limits
from guest.canary import Canary
from guest.platforms import Platform
from guest.plugins import VERSIONS
from guest.settings import AgentSettings


def hello_reply(
    request: pb.HelloRequest,
    context: grpc.ServicerContext,
    *,
    settings: AgentSettings,
    platform: Platform,
    canary: Canary,
    machine_id: str,
    instance_id: str,
    is_fresh: bool,
    lease_id: str = "",
) -> pb.HelloReply:
    """Versions, identity, state and effective settings; refuses a host that speaks another protocol."""
    if request.protocol != limits.PROTOCOL:
        context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"the host speaks protocol {request.protocol}, this agent {limits.PROTOCOL}: rebuild the machine's image",
        )
    if len(request.nonce) > limits.NONCE_MAX_BYTES:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the nonce is too long")
    return pb.HelloReply(
        protocol=limits.PROTOCOL,
        agent_version=limits.AGENT_VERSION,
        machine_id=machine_id,
        boot_id=platform.boot_id(),
        instance_id=instance_id,
        nonce=request.nonce,
        is_fresh=is_fresh,
        platform=platform.name,
        capabilities=platform.capabilities,
        plugin_versions=VERSIONS,
        settings=settings.as_strings(),
        lease_id=lease_id,
        canaries=canary.found(),
        canary_places=canary.places,
    )
