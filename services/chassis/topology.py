"""What a service listens to, as data: queues, their arguments and bindings. The broker is set up from it as well."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.envelope import Command, Message
from services.chassis.store import Store
from services.chassis.unit import COMMANDS_EXCHANGE, FACTS_EXCHANGE, Unit

DELIVERY_LIMIT = 20
RETRY_DELAY_MS = 1_000

Handler = Callable[[Any, Unit, Store], Awaitable[None]]
"""(message, unit, store): load, decide, put the outcome into the unit; the chassis commits."""


@dataclass(frozen=True)
class Inbound:
    """One queue that a service consumes, with its dead-letter queue and its delay queue.

    The three hang on an exchange of the service's own, so that no other service may put anything into them.
    """

    service: str
    name: str
    exchange: str
    keys: tuple[str, ...]

    @property
    def own_exchange(self) -> str:
        """The service's direct exchange: parking, delaying and coming back go through it."""
        return f"{self.service}.own"

    @property
    def own_bindings(self) -> tuple[tuple[str, str], ...]:
        """(routing key, queue) on the own exchange."""
        return tuple((name, name) for name in self.queues)

    @property
    def dead(self) -> str:
        """Where poison is parked."""
        return f"{self.name}.dead"

    @property
    def retry(self) -> str:
        """Where a message waits before it comes again."""
        return f"{self.name}.retry"

    @property
    def queues(self) -> dict[str, dict[str, Any]]:
        """Arguments of the three queues, all quorum queues (RabbitMQ 3.10: at-least-once needs reject-publish)."""
        return {
            self.name: {
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": self.own_exchange,
                "x-dead-letter-routing-key": self.dead,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
            self.retry: {
                "x-message-ttl": RETRY_DELAY_MS,
                "x-dead-letter-exchange": self.own_exchange,
                "x-dead-letter-routing-key": self.name,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
            self.dead: {},
        }


@dataclass(frozen=True)
class Topology:
    """What a service listens to."""

    service: str
    host: str
    handlers: Mapping[type[Message], Handler]
    has_host_commands: bool = False

    @property
    def inbound(self) -> tuple[Inbound, ...]:
        """Its queues: one of facts, one of commands, where it has any."""
        facts = sorted(kind.routing_key() for kind in self.handlers if not issubclass(kind, Command))
        takes_commands = any(issubclass(kind, Command) for kind in self.handlers)
        key = f"{self.service}.{self.host}" if self.has_host_commands else self.service
        return (
            *((Inbound(self.service, f"{self.service}.facts", FACTS_EXCHANGE, tuple(facts)),) if facts else ()),
            *((Inbound(self.service, f"{key}.commands", COMMANDS_EXCHANGE, (key,)),) if takes_commands else ()),
        )
