"""Private servers for a state directory: the parts that `up` starts, put together from ports and secrets."""

from deploy.local.ports import Ports
from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.secrets import Secrets
from deploy.local.state import State


def postgres(state: State, ports: Ports, secrets: Secrets) -> Postgres:
    """The installation's PostgreSQL."""
    return Postgres(state, ports["postgres"], secrets.database)


def rabbitmq(state: State, ports: Ports, secrets: Secrets, management_port: int | None = None) -> RabbitMQ:
    """The installation's RabbitMQ."""
    return RabbitMQ(
        state,
        ports["amqp"],
        ports["dist"],
        ports["epmd"],
        secrets.broker,
        secrets.erlang_cookie,
        management_port,
    )
