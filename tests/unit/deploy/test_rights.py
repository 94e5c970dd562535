"""What each user may do on the broker, as patterns."""

import re

import pytest

from deploy.local.broker_rights import COMMANDS, FACTS, definitions, password_hash, rights
from deploy.local.secrets import INTEGRATOR
from deploy.local.state import SERVICES


def may(pattern: str, name: str) -> bool:
    """The broker's rule: the pattern is searched in the name."""
    return re.search(pattern, name) is not None


@pytest.mark.promise("P46")
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_its_own_queues_only(service: str) -> None:
    """It configures, writes and reads its own, and nobody else's."""
    for right in rights(service):
        assert may(right, f"{service}.facts")
        assert not any(may(right, f"{other}.facts") for other in SERVICES if other != service)


@pytest.mark.promise("P45", "P46")
@pytest.mark.parametrize("service", SERVICES)
def test_no_service_reaches_another_past_the_exchanges(service: str) -> None:
    """Neither the default exchange, nor another's own, nor the audit stream can be written or made anew."""
    configure, write, _ = rights(service)
    foreign = [f"{other}.own" for other in SERVICES if other != service]
    for name in ("amq.default", "malbox.audit", *foreign):
        assert not may(configure, name)
        assert not may(write, name)
    assert not any(may(configure, name) for name in (FACTS, COMMANDS))


@pytest.mark.promise("P46")
@pytest.mark.parametrize("service", SERVICES)
def test_only_the_scheduler_commands(service: str) -> None:
    """Everyone else states facts."""
    assert may(rights(service)[1], COMMANDS) == (service == "scheduler")


@pytest.mark.promise("P46")
def test_an_integrator_only_reads_facts() -> None:
    """No exchange of ours can be written or configured by it."""
    configure, write, read = rights(INTEGRATOR)
    assert may(read, FACTS)
    assert not may(read, COMMANDS)
    assert not any(may(right, name) for right in (configure, write) for name in (FACTS, COMMANDS, "scheduler.own"))


@pytest.mark.promise("P46")
def test_a_service_states_only_its_own_facts() -> None:
    """The routing key begins with the producer's name."""
    rows = definitions("v", dict.fromkeys((*SERVICES, INTEGRATOR), "p"))["topic_permissions"]
    for row in rows:
        assert may(row["write"], f"{row['user']}.thing.happened.v1")
        assert not may(row["write"], "another.thing.happened.v1")
    assert {row["user"] for row in rows} == {*SERVICES, INTEGRATOR}


def test_the_password_hash_is_the_brokers() -> None:
    """The vector of RabbitMQ's guide to passwords: salt 908DC60A, password test12."""
    assert password_hash("test12", bytes.fromhex("908DC60A")) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
