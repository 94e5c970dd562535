"""What static plugins find in the bytes: what it counts, and how it becomes indicators."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.results.assembly import assemble
from services.results.domain.bounds import EVIDENCE_MAX
from services.results.policy import TRAITS, Trait
from services.results.policy.program_traits import PROGRAMS
from tests.unit.results.cases import case, result

BUILTIN = Path(__file__).parents[3] / "services" / "plugins" / "builtin"


def noticed(*names: str, **others: Any) -> dict[str, Any]:
    """A plugin's result with these traits."""
    return {"traits": [{"name": name, "detail": "there"} for name in names], **others}


@pytest.mark.parametrize("trait", TRAITS, ids=lambda trait: trait.name)
def test_each_trait_counts_and_names_its_place(trait: Trait) -> None:
    """The points of the row, with the technique and a pointer to where the plugin says so."""
    report = assemble(case({"pe": noticed("quiet", trait.name)}))
    [reason] = report.reasons
    assert (reason.name, reason.weight, reason.techniques) == (trait.name, trait.points, trait.techniques)
    assert (reason.evidence.plugin, reason.evidence.pointer) == ("pe", "/traits/1")
    assert set(trait.techniques) == {technique.id for technique in report.techniques}
    assert all(technique.name for technique in report.techniques)


def test_a_trait_counts_once_whoever_finds_it() -> None:
    """Two plugins that see the same are two places and one reason."""
    report = assemble(case({"pe": noticed("packed", "packed"), "strings": noticed("packed")}))
    [reason] = report.reasons
    assert [one.plugin for one in (reason.evidence, *reason.more_evidence)] == ["pe", "pe", "strings"]


def test_places_of_a_trait_beyond_those_that_are_named_are_counted() -> None:
    """Where all are named, the control, there are none."""
    [reason] = assemble(case({"pe": noticed(*["packed"] * (EVIDENCE_MAX + 2))})).reasons
    assert (1 + len(reason.more_evidence), reason.evidence_left_out) == (EVIDENCE_MAX, 2)
    [reason] = assemble(case({"pe": noticed(*["packed"] * EVIDENCE_MAX)})).reasons
    assert reason.evidence_left_out == 0


@pytest.mark.parametrize(("facts", "more", "left_out"), [(3, 0, 0), (EVIDENCE_MAX + 1, 0, 1), (EVIDENCE_MAX, 5, 5)])
def test_facts_of_a_rule_beyond_those_that_are_named_are_counted(facts: int, more: int, left_out: int) -> None:
    """Those that the plugin left out, and those that the report does."""
    match = {"rule": "r", "severity": 9, "evidence": [{"fact": "f", "what": "w"}] * facts, "more": more}
    [reason] = assemble(case({"capabilities": {"matches": [match]}})).reasons
    assert reason.evidence_left_out == left_out


def test_no_trait_alone_makes_a_sample_malicious() -> None:
    """Bytes that could do something are not a program that did it; names are used once."""
    assert all(0 < trait.points < 70 for trait in TRAITS)
    assert len({trait.name for trait in TRAITS}) == len(TRAITS)


def test_every_row_for_programs_is_of_a_trait_that_a_plugin_that_ships_can_find() -> None:
    """The table holds no meaning for what nobody says."""
    code = "".join(path.read_text(encoding="utf-8") for path in BUILTIN.rglob("*.py"))
    assert [trait.name for trait in PROGRAMS if f'"{trait.name}"' not in code] == []


def test_a_trait_without_a_meaning_counts_nothing_and_is_shown() -> None:
    """A plugin may find what nobody has judged yet."""
    report = assemble(case({"novel": noticed("unheard-of")}))
    assert report.reasons == ()
    [section] = report.sections
    assert section.blocks[0].model_dump()["rows"] == (("unheard-of", "there"),)


def test_a_guest_has_no_word_in_what_the_bytes_are() -> None:
    """What claims to be findings and came out of a machine is neither judged nor an indicator."""
    made = case({"agent": noticed("packed", indicators=[{"kind": "domain", "value": "lie.example"}])})
    report = assemble(replace(made, results=(replace(made.results[0], stage="guest"),)))
    assert report.reasons == ()
    assert {indicator.kind for indicator in report.indicators} == {"sha256"}


def test_findings_that_do_not_fit_are_an_error_and_cost_only_themselves() -> None:
    """The other plugin's traits count."""
    report = assemble(case({"pe": {"traits": "packed"}, "elf": noticed("packed")}))
    assert [(error.plugin, error.outcome) for error in report.errors] == [("pe", "unreadable")]
    assert [reason.evidence.plugin for reason in report.reasons] == ["elf"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("url", "http://c2.example/a"),
        ("domain", "c2.example"),
        ("ipv4", "192.0.2.7"),
        ("ipv6", "2001:db8::7"),
        ("email", "someone@c2.example"),
        ("registry", "HKLM\\Software\\Example"),
        ("path", "C:\\Users\\a.exe"),
        ("mutex", "Global\\only-one"),
        ("wallet", "1BoatSLRHtKNngkdXEeobR76b53LETtpyT"),
        ("sha256", "ab" * 31 + "cd"),
    ],
)
def test_an_indicator_of_a_plugin_is_one_of_the_report(kind: str, value: str) -> None:
    """With its place, and with what stands around it."""
    said = {"indicators": [{"kind": kind, "value": value, "context": "around it"}]}
    [found] = [one for one in assemble(case({"strings": said})).indicators if one.role != "sample"]
    assert (found.kind, found.value, found.context) == (kind, value, "around it")
    assert found.source is not None
    assert found.source.pointer == "/indicators/0"


@pytest.mark.parametrize(
    ("kind", "value"),
    [("ipv4", "localhost"), ("domain", "a b"), ("url", "just words"), ("sha256", "abc"), ("novel", "x"), ("path", "")],
)
def test_what_is_not_of_the_kind_that_it_claims_is_no_indicator(kind: str, value: str) -> None:
    """An export can rely on the form of each kind."""
    said = {"indicators": [{"kind": kind, "value": value}]}
    assert {one.role for one in assemble(case({"strings": said})).indicators} == {"sample"}


def test_what_was_done_comes_before_what_stands_somewhere() -> None:
    """The same domain, asked for and found in the bytes, is once there, as asked for."""
    said = {"indicators": [{"kind": "domain", "value": "c2.example"}, {"kind": "domain", "value": "other.example"}]}
    behaviour = {"network": [{"address": "192.0.2.53", "port": 53, "query": "c2.example"}]}
    found = assemble(case({"strings": said, "behaviour": behaviour}, result(9, "x", kind="file"))).indicators
    assert [(one.value, one.role) for one in found if one.kind == "domain"] == [
        ("c2.example", "asked for"),
        ("other.example", "in the bytes"),
    ]
