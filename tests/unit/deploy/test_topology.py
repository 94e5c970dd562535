"""The broker is made with every queue that the services listen to."""

import pytest

from deploy.local.broker_rights import definitions
from deploy.topology import FILE, text, topologies


def test_the_committed_topology_is_that_of_the_services() -> None:
    """Regenerate it with `python -m deploy.topology`."""
    assert FILE.read_text(encoding="utf-8") == text()


@pytest.mark.promise("P12")
def test_a_new_broker_has_every_queue_bound_before_any_service_runs() -> None:
    """Otherwise a fact that is stated first would be lost for a service that starts second."""
    made = definitions("malbox", {})
    bound = {(one["source"], one["routing_key"], one["destination"]) for one in made["bindings"]}
    for topology in topologies():
        for inbound in topology.inbound:
            assert {(inbound.exchange, key, inbound.name) for key in inbound.keys} <= bound
    assert {one["name"] for one in made["queues"]} >= {"scheduler.facts", "machines.local.commands", "malbox.audit"}
