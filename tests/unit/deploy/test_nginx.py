"""The gateway's configuration: who gets which path, and which headers no client may set."""

import json
import re
from pathlib import Path

import pytest

from deploy.local import nginx, ports
from deploy.local.routes import API, ROUTES
from deploy.local.state import State, Users

SECRET = "s3cret-of-the-gateway"


@pytest.fixture
def text() -> str:
    """A configuration."""
    numbers = {name: 20_000 + index for index, name in enumerate(ports.NAMES)}
    state = State(Path("/srv/state dir"), Users("a", "a", "a", "a"))
    return nginx.configuration(state, ports.Ports(numbers), SECRET)


def service_of(path: str) -> str | None:
    """Who answers: exact matches and patterns in the table's order, then the longest prefix."""
    for route in ROUTES:
        if route.is_pattern and re.fullmatch(API + route.match, path):
            return route.service
    prefixes = [route for route in ROUTES if not route.is_pattern and path.startswith(API + route.match)]
    return max(prefixes, key=lambda route: len(route.match)).service if prefixes else None


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/submissions", "intake"),
        ("/submissions/sub_1", "intake"),
        ("/tasks", "scheduler"),
        ("/tasks/tsk_1", "scheduler"),
        ("/tasks/tsk_1/cancel", "scheduler"),
        ("/tasks/tsk_1/events", "scheduler"),
        ("/events", "scheduler"),
        ("/tasks/tsk_1/report", "results"),
        ("/tasks/tsk_1/results", "results"),
        ("/tasks/tsk_1/artifacts", "results"),
        ("/artifacts/res_1", "results"),
        ("/machines", "machines"),
        ("/plugins/yara", "plugins"),
        ("/health/machines", "machines"),
        ("/openapi/results.json", "results"),
        ("/dead/intake", "intake"),
        ("/projections/scheduler/tasks/rebuild", "scheduler"),
        ("/dead/machines/machines-1/replay", "machines"),
        ("/auth", None),
    ],
)
def test_a_path_has_its_owner(path: str, service: str | None) -> None:
    """The route table gives each path to the service that owns it."""
    assert service_of(API + path) == service


def test_identity_headers_are_set_in_every_place_that_sets_headers(text: str) -> None:
    """Nginx forgets inherited headers where one is set: a client's own would pass there."""
    blocks = [block for block in re.split(r"\blocation\b|server \{", text) if "proxy_set_header" in block]
    assert len(blocks) > len([route for route in ROUTES if route.needs_identity])
    for block in blocks:
        for name in ("X-Malbox-Subject", "X-Malbox-Roles", "X-Malbox-Gateway"):
            assert f"proxy_set_header {name} " in block


def test_every_route_but_health_and_schema_proves_who_calls(text: str) -> None:
    """Each of the others asks intake first."""
    for block in text.split("location ")[1:]:
        if "proxy_pass http://malbox_" in block and nginx.AUTH_LOCATION not in block.splitlines()[0]:
            is_open = re.search(r"/(health|openapi)/", block.splitlines()[0]) is not None
            assert is_open != ("auth_request " in block)


def test_errors_of_the_gateway_are_problems(text: str) -> None:
    """Each has RFC 9457's members and the services' own type."""
    for status, (code, detail) in nginx.PROBLEMS.items():
        body = json.loads(nginx.problem(status, code, detail))
        assert {"type", "title", "status", "detail", "code"} <= set(body)
        assert f"error_page {status} @problem_{status};" in text
    assert "'" not in "".join(detail for _, detail in nginx.PROBLEMS.values())


def test_paths_with_spaces_are_quoted(text: str) -> None:
    """A state directory may lie anywhere."""
    assert 'pid "/srv/state dir/nginx/nginx.pid";' in text
