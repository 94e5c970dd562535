"""One installation with everything known about it: where it lies, its ports, its secrets, and the servers they make."""

from dataclasses import dataclass

from deploy.local import ports as ports_of
from deploy.local import secrets as secrets_of
from deploy.local.nginx import Nginx
from deploy.local.ports import Moved, Ports
from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.secrets import Secrets
from deploy.local.state import DeployError, State


@dataclass(frozen=True)
class Installation:
    """State directory, ports and secrets."""

    state: State
    ports: Ports
    secrets: Secrets

    @classmethod
    def open(cls, state: State) -> "Installation":
        """The installation as it was made. Raises DeployError when there is none."""
        ports = ports_of.load(state)
        if ports is None:
            raise DeployError(f"nothing is installed at {state.root}: run `malbox up`")
        return cls(state, ports, secrets_of.ensure(state))

    @classmethod
    def prepare(cls, state: State, in_use_by_us: frozenset[str] = frozenset()) -> "tuple[Installation, list[Moved]]":
        """The installation, made where it does not exist; and the ports that had to move. Raises DeployError."""
        state.prepare()
        ports, moved = ports_of.settle(state, in_use_by_us)
        return cls(state, ports, secrets_of.ensure(state)), moved

    def postgres(self) -> Postgres:
        """Its PostgreSQL."""
        return Postgres(self.state, self.ports["postgres"], self.secrets.database)

    def rabbitmq(self, management_port: int | None = None) -> RabbitMQ:
        """Its RabbitMQ; with the management API only where a port is given for it."""
        numbers = self.ports["amqp"], self.ports["dist"], self.ports["epmd"]
        return RabbitMQ(self.state, *numbers, self.secrets.broker, self.secrets.erlang_cookie, management_port)

    def nginx(self) -> Nginx:
        """Its gateway."""
        return Nginx(self.state, self.ports, self.secrets.gateway)
