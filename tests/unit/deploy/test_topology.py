"""The broker is made with every queue that the services listen to."""

import pytest

from contracts.catalogue import FACTS
from deploy.local.broker_rights import definitions
from deploy.topology import FILE, text, topologies
from services.chassis.broker_setup import EVERY_PUBLIC_FACT


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


@pytest.mark.promise("P45")
def test_the_audit_stream_hears_every_public_fact_and_no_sign_of_life() -> None:
    """Four words are public, five are not, and the binding is the same wherever the stream is made."""
    [key] = {
        one["routing_key"] for one in definitions("malbox", {})["bindings"] if one["destination"] == "malbox.audit"
    }
    assert key == EVERY_PUBLIC_FACT == "*.*.*.*"
    assert {len(fact.routing_key().split(".")) for fact in FACTS if fact.PUBLIC} == {4}
    assert {fact.__name__: len(fact.routing_key().split(".")) for fact in FACTS if not fact.PUBLIC} == {"LeaseBeat": 5}
