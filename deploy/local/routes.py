"""Who answers which path under /api/v1: the table that the gateway is configured from."""

from dataclasses import dataclass

from deploy.local.state import SERVICES

API = "/api/v1"


@dataclass(frozen=True)
class Route:
    """Requests whose path matches go to the service."""

    match: str
    service: str
    is_pattern: bool = False
    needs_identity: bool = True
    takes_sample: bool = False

    @property
    def location(self) -> str:
        """The location in nginx's words: patterns are tried in this table's order, before prefixes."""
        return f"~ ^{API}{self.match}$" if self.is_pattern else f"{API}{self.match}"


ROUTES = (
    Route(r"/tasks/[^/]+/(report|results|artifacts)(/.*)?", "results", is_pattern=True),
    Route(r"/submissions", "intake", is_pattern=True, takes_sample=True),
    Route("/submissions", "intake"),
    Route("/tasks", "scheduler"),
    Route("/events", "scheduler"),
    Route("/artifacts", "results"),
    Route("/machines", "machines"),
    Route("/plugins", "plugins"),
    *(Route(f"/{what}/{service}", service) for what in ("dead", "projections") for service in SERVICES),
    *(Route(rf"/health/{service}", service, is_pattern=True, needs_identity=False) for service in SERVICES),
    *(Route(rf"/openapi/{service}\.json", service, is_pattern=True, needs_identity=False) for service in SERVICES),
)
