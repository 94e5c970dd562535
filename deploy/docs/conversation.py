"""Who hears what and who says what, read from the services' own code.

Heard is what a service's table of handlers names. Said is what its code refers to among its own messages: a service
has no other use for the class of a message of its own.
"""

import ast
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from contracts.catalogue import BY_TYPE
from contracts.envelope import Command, Message
from deploy.local.state import SERVICES
from services.chassis.blobs import BlobStore
from services.chassis.topology import Handler
from services.intake.domain.choosing import ChildLimits
from services.intake.handlers import handlers as intake_handlers
from services.machines.handlers import HANDLERS as MACHINES
from services.plugins.handlers import HANDLERS as PLUGINS
from services.results.handlers import handlers as results_handlers
from services.scheduler.handlers import HANDLERS as SCHEDULER

SERVICES_DIR = Path(__file__).parents[2] / "services"
NAMES: Mapping[str, type[Message]] = {kind.__name__: kind for kind in BY_TYPE.values()}


@cache
def handlers() -> Mapping[str, Mapping[type[Message], Handler]]:
    """Each service's table of handlers."""
    with tempfile.TemporaryDirectory() as nowhere:
        results = results_handlers(BlobStore(Path(nowhere)))
    intake = intake_handlers(ChildLimits(), queued_max=1)
    return {"intake": intake, "scheduler": SCHEDULER, "machines": MACHINES, "plugins": PLUGINS, "results": results}


def heard_by(kind: type[Message]) -> tuple[str, ...]:
    """The services that handle the message."""
    return tuple(service for service in SERVICES if kind in handlers()[service])


def said_in(kind: type[Message]) -> tuple[str, ...]:
    """The files of the producer that say the message, relative to the service's folder. Empty: nobody says it yet."""
    return _said(kind.PRODUCER).get(kind.__name__, ())


def hears(service: str) -> list[tuple[type[Message], str]]:
    """What the service hears, in the order of its table, and what follows, in its handlers' words."""
    return [(kind, first_sentence(handler.__doc__)) for kind, handler in handlers()[service].items()]


def says(service: str) -> list[type[Message]]:
    """What the service says, in the order of the catalogue."""
    return [kind for kind in BY_TYPE.values() if service == kind.PRODUCER and said_in(kind)]


def first_sentence(docstring: str | None) -> str:
    """The first paragraph, on one line."""
    return " ".join((docstring or "").strip().split("\n\n")[0].split())


def is_command(kind: type[Message]) -> bool:
    """Whether it is an order and not a fact."""
    return issubclass(kind, Command)


@cache
def _said(service: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    folder = SERVICES_DIR / service
    for path in sorted(folder.rglob("*.py")):
        for name in sorted(_references(path)):
            kind = NAMES.get(name)
            if kind is not None and service == kind.PRODUCER:
                found.setdefault(name, []).append(path.relative_to(folder).as_posix())
    return {name: tuple(files) for name, files in found.items()}


def _references(path: Path) -> set[str]:
    """Names that the file's code uses as values; imports and annotations are not uses."""
    visitor = _Uses()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor.names


class _Uses(ast.NodeVisitor):
    """Collects names and `public.Name` attributes outside annotations. `Task.Queued` is an event, not a message."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._modules: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module == "contracts":
            self._modules |= {alias.asname or alias.name for alias in node.names}

    def visit_Name(self, node: ast.Name) -> None:
        self.names.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in self._modules:
            self.names.add(node.attr)
        else:
            self.generic_visit(node)

    def visit_arg(self, _node: ast.arg) -> None:
        """An argument is a name and an annotation."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for child in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults), *node.body):
            self.visit(child)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815
