"""The gateway: one origin on loopback in front of the five services, configured from the route table.

It proves who is calling once (a subrequest to intake), tells the services, and lets no client speak for itself: the
headers that carry an identity are always set here. Bodies stream through it unbuffered in both directions.
"""

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from contracts.limits import SAMPLE_MAX_BYTES
from deploy.local import processes
from deploy.local.ports import LOOPBACK, Ports
from deploy.local.postgres import run_as
from deploy.local.routes import API, ROUTES, Route
from deploy.local.state import SERVICES, DeployError, State, write_private

NAME = "nginx"
BINARY = Path("/usr/sbin/nginx")
READY_TIMEOUT_S = 60.0
CHECK_TIMEOUT_S = 15.0
FORM_MAX_BYTES = 1024 * 1024
STREAM_TIMEOUT_S = 3600
AUTH_LOCATION = "/_identity"

PROBLEMS = {
    400: ("bad_request", "The request is not valid HTTP."),
    401: ("unauthenticated", "Send a valid token: Authorization: Bearer <token>."),
    403: ("forbidden", "The token may not do this."),
    404: ("not_found", "Nothing is served at this path."),
    413: ("too_large", f"A sample has at most {SAMPLE_MAX_BYTES} bytes."),
    414: ("uri_too_long", "The address of the request is too long."),
    421: ("wrong_host", "This origin answers to 127.0.0.1 and localhost only."),
    502: ("service_unavailable", "The service behind this path cannot be reached now. Try again shortly."),
    504: ("service_timeout", "The service behind this path did not answer in time. Try again shortly."),
}
_SHOWN_AS = {500: 502, 503: 502, 408: 400, 494: 400}


@dataclass(frozen=True)
class Nginx:
    """The gateway of one installation."""

    state: State
    ports: Ports
    gateway_secret: str

    @property
    def config_file(self) -> Path:
        """Where the configuration lies."""
        return self.state.nginx / "nginx.conf"

    def start(self) -> processes.Identity:
        """The gateway listens; one with another configuration is replaced."""
        text = configuration(self.state, self.ports, self.gateway_secret)
        with processes.only_starter(self.state, NAME):
            if write_private(self.config_file, text, self.state.users.services):
                processes.stop(self.state, NAME)
            running = processes.started(self.state, NAME)
            if running is None:
                run_as(self.state.users.services, [*self._argv(), "-t", "-q"], self.state.nginx, CHECK_TIMEOUT_S)
                running = processes.spawn(self.state, self._command())
        self._await_ready(running)
        return running

    def stop(self) -> bool:
        """The gateway is down. Returns whether it ran."""
        return processes.stop(self.state, NAME)

    def _argv(self) -> list[str]:
        return [str(BINARY), "-e", "stderr", "-p", str(self.state.nginx), "-c", str(self.config_file)]

    def _command(self) -> processes.Command:
        env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        return processes.Command(NAME, self._argv(), self.state.users.services, env, self.state.nginx)

    def _await_ready(self, running: processes.Identity) -> None:
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        while not accepts(self.ports["gateway"]):
            if not running.is_running() or time.monotonic() > give_up_at:
                raise DeployError(f"nginx does not listen; its log says:\n{processes.log_tail(self.state, NAME)}")
            time.sleep(0.02)


def accepts(port: int) -> bool:
    """Whether somebody accepts connections on the port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2):
            return True
    except OSError:
        return False


def configuration(state: State, ports: Ports, gateway_secret: str) -> str:
    """nginx.conf."""
    port = ports["gateway"]
    lines = [
        "daemon off;",
        "worker_processes 1;",
        f"pid {_quoted(state.nginx / 'nginx.pid')};",
        "error_log stderr warn;",
        "events { worker_connections 1024; }",
        "http {",
        *(
            f"{kind}_temp_path {_quoted(state.nginx / kind)};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ),
        "access_log off;",
        "server_tokens off;",
        "default_type application/octet-stream;",
        "client_header_timeout 15s;",
        "client_body_timeout 60s;",
        "send_timeout 60s;",
        "large_client_header_buffers 4 16k;",
        *(_upstream(service, ports[service]) for service in SERVICES),
        *_server(f"listen {LOOPBACK}:{port} default_server;", ["server_name _;", "location / { return 421; }"]),
        *_server(
            f"listen {LOOPBACK}:{port};",
            ["server_name 127.0.0.1 localhost;", *_body(gateway_secret)],
        ),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _server(listen: str, inside: list[str]) -> list[str]:
    return ["server {", listen, *_problems(), *inside, "}"]


def _body(gateway_secret: str) -> list[str]:
    return [
        f'set $malbox_gateway "{gateway_secret}";',
        f"client_max_body_size {FORM_MAX_BYTES};",
        *_proxy_settings(),
        f"location = {AUTH_LOCATION} {{",
        "internal;",
        f"proxy_pass http://malbox_intake{API}/auth;",
        "proxy_pass_request_body off;",
        "client_max_body_size 0;",  # the limit is checked against the client's body here too, though none is passed on
        *_proxy_headers({"Content-Length": '""', "X-Original-URI": "$request_uri"}),
        "}",
        *(line for route in ROUTES for line in _location(route)),
        "location / { return 404; }",
    ]


def _proxy_settings() -> list[str]:
    return [
        "proxy_http_version 1.1;",
        "proxy_buffering off;",
        "proxy_request_buffering off;",
        "proxy_max_temp_file_size 0;",
        "proxy_next_upstream off;",
        "proxy_connect_timeout 5s;",
        f"proxy_read_timeout {STREAM_TIMEOUT_S}s;",
        "proxy_send_timeout 60s;",
        *_proxy_headers({}),
    ]


def _proxy_headers(more: dict[str, str]) -> list[str]:
    """All of them each time: nginx forgets inherited ones where a location sets one of its own."""
    headers = {
        "Host": "$host",
        "Connection": '""',
        "X-Forwarded-For": "$remote_addr",
        "X-Malbox-Gateway": "$malbox_gateway",
        "X-Malbox-Subject": '""',
        "X-Malbox-Roles": '""',
        **more,
    }
    return [f"proxy_set_header {name} {value};" for name, value in headers.items()]


def _location(route: Route) -> list[str]:
    lines = [f"location {route.location} {{"]
    if route.needs_identity:
        lines += [
            f"auth_request {AUTH_LOCATION};",
            "auth_request_set $malbox_subject $upstream_http_x_malbox_subject;",
            "auth_request_set $malbox_roles $upstream_http_x_malbox_roles;",
        ]
    if route.takes_sample:
        lines.append(f"client_max_body_size {SAMPLE_MAX_BYTES + FORM_MAX_BYTES};")
    return [*lines, *_location_headers(route), f"proxy_pass http://malbox_{route.service};", "}"]


def _location_headers(route: Route) -> list[str]:
    if not route.needs_identity:
        return []
    proven = {"X-Malbox-Subject": "$malbox_subject", "X-Malbox-Roles": "$malbox_roles"}
    return _proxy_headers(proven)


def _problems() -> list[str]:
    lines = [f"error_page {status} @problem_{status};" for status in PROBLEMS]
    lines += [f"error_page {status} ={shown} @problem_{shown};" for status, shown in _SHOWN_AS.items()]
    for status, (code, detail) in PROBLEMS.items():
        lines += [f"location @problem_{status} {{", "internal;", "default_type application/problem+json;"]
        if status == 401:  # noqa: PLR2004 - RFC 9110, 15.5.2: a 401 names the scheme
            lines.append("add_header WWW-Authenticate Bearer always;")
        lines += [f"return {status} '{problem(status, code, detail)}';", "}"]
    return lines


def problem(status: int, code: str, detail: str) -> str:
    """RFC 9457, in the services' own shape."""
    body = {
        "type": f"urn:malbox:problem:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": detail,
        "code": code,
    }
    return json.dumps(body)


def _upstream(service: str, port: int) -> str:
    return f"upstream malbox_{service} {{ server {LOOPBACK}:{port} max_fails=0; keepalive 8; }}"


def _quoted(path: Path) -> str:
    return f'"{path}"'
