"""The rules of each route as data, and the names and addresses that are derived."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from pydantic import ValidationError

from services.machines.network.layout import SLOTS_MAX, guest_mac, link_addresses, socket_name
from services.machines.network.reference import differences
from services.machines.network.rules import PRIVATE, Limits, merged, of_egress, of_machine
from services.machines.network.settings import EgressSettings
from services.machines.network.words import REQUEST, Open

LIMITS = Limits(IPv4Address("198.51.100.53"), 512)
LEASE = "lea_" + "0" * 32


@pytest.mark.promise("P22", "P23")
def test_on_the_route_none_no_rule_accepts_anything() -> None:
    """The guard of a plugged cable counts and drops; there is nothing that lets a frame pass either way."""
    ruleset = of_machine("none", guest_mac("m"))
    assert all(chain.policy == "drop" for chain in ruleset.chains)
    assert not [rule for chain in ruleset.chains for rule in chain.rules if "accept" in rule]


@pytest.mark.promise("P22")
@pytest.mark.parametrize("ruleset", [of_machine("simulated", "m"), of_machine("internet", "m", LIMITS), of_egress()])
def test_what_filters_drops_what_no_rule_accepts(ruleset: object) -> None:
    """Only chains that translate addresses accept by default: they decide nothing."""
    for chain in ruleset.chains:  # type: ignore[attr-defined]  # a parameter of a test
        assert chain.policy == ("accept" if chain.hook.startswith("type nat") else "drop")


def test_the_route_internet_needs_to_know_its_limits() -> None:
    """Without a resolver and a rate there are no rules for it."""
    with pytest.raises(ValueError, match="limits"):
        of_machine("internet", guest_mac("m"))


def test_a_rule_can_be_taken_away_and_nothing_else_changes() -> None:
    """What the packet tests do to each rule in turn."""
    ruleset = of_machine("internet", guest_mac("m"), LIMITS)
    for chain, rule in ruleset.places():
        text = ruleset.chains[chain].rules[rule]
        less = ruleset.without((chain, rule))
        assert sum(len(one.rules) for one in less.chains) == sum(len(one.rules) for one in ruleset.chains) - 1
        assert text not in less.chains[chain].rules


def test_blocked_ranges_do_not_overlap() -> None:
    """A set of intervals takes no range twice; the host's own addresses may lie in a private one."""
    own = (IPv4Network("10.1.2.3"), IPv4Network("198.51.100.2"))
    found = merged((*PRIVATE, *own))
    assert IPv4Network("198.51.100.2") in found
    assert IPv4Network("10.1.2.3") not in found
    assert not any(a.overlaps(b) for i, a in enumerate(found) for b in found[i + 1 :])


def test_every_link_has_addresses_of_its_own_that_guests_may_not_reach() -> None:
    """No two machines share an end of a link, and every end is in a blocked range."""
    ends = [end.ip for slot in range(SLOTS_MAX) for end in link_addresses(slot)]
    assert len(set(ends)) == len(ends)
    assert all(any(end in network for network in PRIVATE) for end in (ends[0], ends[-1]))


def test_names_are_derived_and_short() -> None:
    """A machine's socket fits into a unix address whatever its name; its card differs from every other's."""
    names = [socket_name(f"machine-{number}") for number in range(100)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 20
    assert guest_mac("a") != guest_mac("b")


@pytest.mark.parametrize(
    "packet",
    [
        '{"verb": "open", "machine_id": "../../etc", "epoch": 1, "lease_id": "' + LEASE + '", "route": "none"}',
        '{"verb": "open", "machine_id": "m", "epoch": "1", "lease_id": "' + LEASE + '", "route": "none"}',
        '{"verb": "open", "machine_id": "m", "epoch": -1, "lease_id": "' + LEASE + '", "route": "none"}',
        '{"verb": "open", "machine_id": "m", "epoch": 1, "lease_id": "x; reboot", "route": "none"}',
        '{"verb": "open", "machine_id": "m", "epoch": 1, "lease_id": "' + LEASE + '", "route": "host"}',
        '{"verb": "plug", "machine_id": "m", "epoch": 1, "interface": "eth0"}',
        '{"verb": "run", "command": "id"}',
        "[]",
        "",
    ],
)
def test_a_request_in_other_words_is_none(packet: str) -> None:
    """No path, no command, no interface, no number as text: each of these is refused before anything is done."""
    with pytest.raises(ValidationError):
        REQUEST.validate_json(packet)


def test_a_request_in_the_right_words_is_one() -> None:
    """The control of the refusals."""
    request = Open(machine_id="m", epoch=1, lease_id=LEASE, route="none")
    assert REQUEST.validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize("interface", ["", "eth0; reboot", "../eth0", "a-name-that-is-too-long"])
def test_an_interface_that_is_none_is_refused(interface: str) -> None:
    """What an operator writes down for the way out is checked before it is used."""
    with pytest.raises(ValidationError):
        EgressSettings.model_validate(
            {"interface": interface, "address": "192.0.2.2/24", "gateway": "192.0.2.1", "resolver": "192.0.2.1"}
        )


def test_each_kind_of_difference_is_named() -> None:
    """A rule too few, one too many, and the right ones in another order."""
    one, two = {"rule": 1}, {"rule": 2}
    assert differences("rules", [one, two], [one, two]) == []
    assert "missing" in differences("rules", [one, two], [one])[0]
    assert "too much" in differences("rules", [one], [one, two])[0]
    assert "order" in differences("rules", [one, two], [two, one])[0]
