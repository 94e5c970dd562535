"""A gRPC server with mutual TLS: one port, few threads, bounded messages."""

from concurrent.futures import ThreadPoolExecutor

import grpc

from contracts.guest.agent_pb2_grpc import AgentServicer, add_AgentServicer_to_server
from guest import limits
from guest.settings import AgentSettings

_OPTIONS = (
    ("grpc.max_receive_message_length", limits.MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", limits.MESSAGE_MAX_BYTES),
    ("grpc.max_concurrent_streams", limits.CALLS_AT_ONCE_MAX),
    # Two phases never listen at the same time: one that finds the port taken must fail, not share it.
    ("grpc.so_reuseport", 0),
)


class ServerRefused(Exception):
    """The server cannot be started; the message says why."""


def start_server(
    service: AgentServicer, settings: AgentSettings, *, certificate_pem: str, key_pem: str, client_ca_pem: str
) -> grpc.Server:
    """The service answers clients that the authority knows, under the certificate. Raises ServerRefused."""
    pool = ThreadPoolExecutor(max_workers=limits.CALLS_AT_ONCE_MAX)
    server = grpc.server(pool, options=_OPTIONS, maximum_concurrent_rpcs=limits.CALLS_AT_ONCE_MAX)
    add_AgentServicer_to_server(service, server)
    credentials = grpc.ssl_server_credentials(
        [(key_pem.encode(), certificate_pem.encode())],
        root_certificates=client_ca_pem.encode(),
        require_client_auth=True,
    )
    try:
        server.add_secure_port(f"{settings.agent_host}:{settings.agent_port}", credentials)
    except (RuntimeError, ValueError) as error:
        raise ServerRefused(f"port {settings.agent_port}: {error}") from error
    server.start()
    return server
