"""Reports out of cases."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.plugins import RunError
from services.results.assembly import assemble, build
from services.results.assembly.conduct import process_tree
from services.results.assembly.sections import BLOCKS_MAX, COLUMNS_MAX
from services.results.domain.bounds import (
    LOST_ATTEMPTS_SHOWN_MAX,
    PIDS_SHOWN_MAX,
    ROWS_SHOWN_MAX,
    TIMELINE_SHOWN_MAX,
)
from services.results.domain.inputs import Behaviour
from services.results.domain.report import Report
from tests.unit.results.cases import SEALED_AT, case, result

pids = st.integers(1, 6)
processes = st.lists(
    st.fixed_dictionaries({"pid": pids, "ppid": pids | st.none(), "argv": st.lists(st.text(max_size=8), max_size=3)}),
    max_size=30,
)


@given(processes)
def test_every_process_stands_once_in_the_tree_whatever_parents_a_guest_names(found: list[dict[str, Any]]) -> None:
    """Cycles, orphans and reused pids cannot lose or repeat a process."""
    tree, more = process_tree(Behaviour.model_validate({"processes": found}))
    assert more == 0
    assert sorted(p.pid for p in tree) == sorted(p["pid"] for p in found)
    assert all(later.depth <= before.depth + 1 for before, later in pairwise(tree))
    assert not tree or tree[0].depth == 0


def test_a_very_deep_tree_is_no_stack_overflow() -> None:
    """A thousand generations are a list, not a recursion."""
    found = [{"pid": pid, "ppid": pid - 1} for pid in range(1, 20_000)]
    tree, more = process_tree(Behaviour.model_validate({"processes": found}))
    assert len(tree) + more == len(found)
    assert [process.depth for process in tree] == list(range(len(tree)))


def test_what_is_cut_is_counted() -> None:
    """The report says how much more there was."""
    events = [{"at_s": float(n), "event": "file"} for n in range(TIMELINE_SHOWN_MAX + 7)]
    report = assemble(case({"behaviour": {"timeline": events}}))
    assert len(report.timeline) == TIMELINE_SHOWN_MAX
    assert report.truncated.timeline == 7


def test_emulation_is_declared_to_be_no_security_boundary() -> None:
    """The report never lets emulation pass for isolation."""
    environment = assemble(case({})).environment
    assert not environment.is_security_boundary
    assert "not a security boundary" in environment.statement
    assert assemble(case({}, acceleration="kvm")).environment.is_security_boundary
    assert not assemble(case({}, acceleration="surprise")).environment.is_security_boundary
    assert "not run" in assemble(case({}, machine_id=None)).environment.statement


TITLED = "What a plugin calls it"


@pytest.mark.parametrize(
    ("name", "document", "titles"),
    [
        ("novel", {"count": 1, "header": {"bits": 64}}, [TITLED, "header"]),
        ("novel", [{"event": "created"}], [TITLED]),
        ("novel", "words", [TITLED]),
        ("piece/1", [{"event": "created"}], [f"{TITLED}: 1"]),
    ],
)
def test_a_section_and_what_shows_the_result_itself_stand_under_the_results_title(
    name: str, document: object, titles: list[str]
) -> None:
    """One of many has its own name behind the title of all; parts of a result keep their keys."""
    without = case({f"novel/{name}": document})
    titled = replace(without, results=tuple(replace(one, title=TITLED) for one in without.results))
    [section] = assemble(titled).sections
    assert [block.title for block in section.blocks] == titles
    assert section.title == titles[0]
    [section] = assemble(without).sections
    assert (section.name, section.title, section.blocks[0].title) == (name, "", name)


def test_a_preview_and_an_artifact_have_the_title_of_their_result() -> None:
    """What is text, and what is to be downloaded."""
    printed = replace(result(1, "novel", kind="bytes", name="stdout"), title=TITLED)
    made = assemble(replace(case({}, printed), previews={printed.result_id: b"hello"}))
    assert (made.sections[0].title, made.sections[0].blocks[0].title) == (TITLED, TITLED)
    assert [artifact.title for artifact in made.artifacts] == [TITLED]


@pytest.mark.promise("G8")
def test_errors_of_plugins_and_lost_results_stand_in_the_report() -> None:
    """Nothing that was not done is silent."""
    lost = result(9, "elf")
    failed = RunError(plugin="yara", stage="static", outcome="crashed", reason="signal 11")
    made = case({"identity": b"garbage"}, lost, errors=[failed], outcome="failed", reason="no guest")
    made.missing[lost.result_id] = "its 100 bytes are not in the object store"
    report = assemble(made)
    assert [(error.source, error.outcome) for error in report.errors] == [
        ("task", "failed"),
        ("result", "missing"),
        ("plugin", "crashed"),
        ("result", "unreadable"),
    ]
    assert report.missing_results == (lost.result_id,)


def test_attempts_before_the_last_stand_in_the_report_within_a_bound() -> None:
    """Each as the order tells of it, with what went wrong in its runs; what is beyond the bound is counted."""
    failed = {"plugin": "syscalls", "stage": "guest", "outcome": "failed", "reason": "no trace"}
    lost = {"number": 1, "machine_id": "linux-2", "ended_at": SEALED_AT, "outcome": "guest_lost", "reason": "no answer"}
    told = {**lost, "errors": [failed], "errors_left_out": 2}
    report = assemble(case({}, lost_attempts=[told] * (LOST_ATTEMPTS_SHOWN_MAX + 3)))
    assert len(report.task.lost_attempts) == LOST_ATTEMPTS_SHOWN_MAX
    assert report.truncated.lost_attempts == 3
    [first, *_] = report.task.lost_attempts
    assert first.model_dump(exclude={"errors"}) == {**lost, "began_at": None, "errors_left_out": 2}
    [error] = first.errors
    assert error.model_dump(include=set(failed)) == failed
    assert report.errors == ()


def test_indicators_are_there_once_with_their_source() -> None:
    """An address that was contacted twice is one indicator; the guest's own addresses are none."""
    behaviour = {
        "processes": [{"pid": 1, "argv": ["curl", "-o", "x", "http://Bad.Example:8080/a?b"]}],
        "network": [
            {"address": "192.0.2.7", "port": 80},
            {"address": "192.0.2.7", "port": 81},
            {"address": "127.0.0.1", "port": 80},
            {"address": "::1", "port": 80},
            {"address": "not an address", "port": 80},
            {"address": "192.0.2.53", "port": 53, "query": "bad.example."},
        ],
        "files": [{"path": "/proc/self/mem", "actions": ["written"]}, {"path": "/tmp/a", "actions": ["written"]}],
    }
    report = assemble(case({"behaviour": behaviour}))
    found = [(i.kind, i.value, i.source.pointer if i.source else None) for i in report.indicators]
    assert found == [
        ("sha256", "ab" * 32, None),
        ("ipv4", "192.0.2.7", "/network/0"),
        ("domain", "bad.example", "/network/5"),
        ("url", "http://Bad.Example:8080/a?b", "/processes/0/argv/3"),
        ("path", "/tmp/a", "/files/1"),
    ]


def test_a_dropped_file_is_joined_with_what_was_done_to_it() -> None:
    """The analyst finds the id of the bytes beside the path."""
    dropped = result(7, "syscalls", kind="file", name="dropped/0", path="/tmp/b")
    behaviour = {"files": [{"path": "/tmp/a", "actions": ["read"]}, {"path": "/tmp/b", "actions": ["written"]}]}
    report = assemble(case({"behaviour": behaviour}, dropped))
    assert [(file.path, file.result_id) for file in report.files] == [("/tmp/b", dropped.result_id), ("/tmp/a", None)]
    assert [artifact.result_id for artifact in report.artifacts] == [dropped.result_id]
    assert ("sha256", dropped.sha256) in {(i.kind, i.value) for i in report.indicators}


def test_whatever_a_section_does_not_show_is_counted() -> None:
    """Values of the result, those of an object in it, blocks, columns; within the bounds, the control, is all."""
    wide = {f"k{number:03}": number for number in range(ROWS_SHOWN_MAX + 2)}
    columns = [{f"c{number}": number for number in range(COLUMNS_MAX + 3)}]
    [flat] = assemble(case({"novel": wide | {"indicators": []}})).sections
    assert (len(flat.blocks), flat.more) == (1, 2)
    [section] = assemble(case({"novel": {"wide": wide, "table": columns}})).sections
    assert [block.model_dump()["more"] for block in section.blocks] == [2, 0]
    assert (section.blocks[1].model_dump()["more_columns"], section.more) == (3, 0)
    [many] = assemble(case({"novel": {f"b{number}": {"x": 1} for number in range(BLOCKS_MAX + 4)}})).sections
    assert (len(many.blocks), many.more) == (BLOCKS_MAX, 4)
    [small] = assemble(case({"novel": {"a": 1, "indicators": []}})).sections
    assert small.more == 0


def test_processes_of_a_file_and_results_that_were_cut_are_counted_beyond_their_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first are named."""
    monkeypatch.setattr(build, "ERRORS_MAX", 1)
    behaviour = {"files": [{"path": "/tmp/a", "pids": list(range(PIDS_SHOWN_MAX + 5))}], "is_truncated": True}
    report = assemble(case({"behaviour": behaviour}, replace(result(9, "syscalls", kind="bytes"), is_truncated=True)))
    [file] = report.files
    assert (len(file.pids), file.more_pids) == (PIDS_SHOWN_MAX, 5)
    assert (report.truncated.at_source, report.truncated.at_source_more) == (("syscalls/syscalls",), 1)


def test_any_plugin_has_a_section_in_blocks() -> None:
    """A plugin that the report knows nothing of is still shown."""
    document = {"count": 3, "names": ["a", "b"], "header": {"bits": 64}, "sections": [{"name": ".text", "size": 1}]}
    [section] = assemble(case({"novel": document})).sections
    assert [block.kind for block in section.blocks] == ["facts", "facts", "table"]
    assert section.blocks[0].model_dump()["facts"] == (("count", "3"), ("names", "a, b"))
    [section] = assemble(case({"novel": [{"event": "created"}, {"event": "deleted"}]})).sections
    assert section.blocks[0].model_dump()["rows"] == (("created",), ("deleted",))


documents = st.dictionaries(
    st.sampled_from(["identity", "yara", "behaviour", "elf"]),
    st.recursive(
        st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=15,
    )
    | st.binary(max_size=50),
)


@given(documents)
@pytest.mark.promise("P35")
def test_whatever_plugins_say_there_is_a_report(found: dict[str, Any]) -> None:
    """A report is made of any documents, fits its own schema, and can be read back."""
    report = assemble(case(found))
    assert Report.model_validate_json(report.to_json()) == report


def test_the_same_case_makes_the_same_bytes() -> None:
    """Sealing again after a crash stores the same report."""
    document = {"matches": [{"rule": "r", "severity": 5}]}
    assert assemble(case({"yara": document})).to_json() == assemble(case({"yara": document})).to_json()
    assert json.loads(assemble(case({})).to_json())["schema"] == "malbox.report.v1"
