"""Reports on a terminal: what matters is there, and a sample can forge none of it."""

import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cli.render import render_report
from cli.render.escape import escaped

WIDTH = 100
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HOSTILE = (
    "\x1b[2J\x1b[H\x1b]0;owned\x07",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "a\r\nVerdict: BENIGN\n",
    "\u202egnp.exe",
    "\u2066x\u2069\u200b\u2028\u2029\x85\x9b31m",
    "[bold red]markup[/] [link=file:///etc/passwd]x[/link] :skull:",
    "[/nothing]",
    "z" + "\u0301" * 50,
    "x" + " " * 90 + "BENIGN  0/100",
    "\ud800\udfff",
    "\x00\x08\x08\x7f",
    "a" * 100_000,
)


def evil(text: str) -> dict[str, Any]:
    """A report with the text in every place that a sample, a guest or a plugin can reach."""
    proof = {"plugin": text, "result_id": text, "pointer": text}
    return {
        "verdict": text,
        "score": 10,
        "outcome": text,
        "outcome_reason": text,
        "ended_by": text,
        "sample": {"name": text, "type": text, "mime": text, "sha256": text, "size_bytes": 1},
        "task": {
            "task_id": text,
            "lost_attempts": [
                {
                    "number": 1,
                    "machine_id": text,
                    "began_at": text,
                    "ended_at": text,
                    "outcome": text,
                    "reason": text,
                    "errors": [{"plugin": text, "outcome": text, "reason": text}],
                }
            ],
        },
        "environment": {"machine_id": text, "platform": text, "acceleration": text, "statement": text},
        "timings": {"submitted_at": text},
        "reasons": [{"points": 1, "weight": 2, "why": text, "techniques": [text], "evidence": proof}],
        "processes": [
            {"pid": 1, "depth": 0, "argv": [text, text], "signal": text},
            {"pid": 2, "depth": 9, "exe": text},
        ],
        "timeline": [{"at_s": 1.0, "pid": 1, "event": text, "detail": text}],
        "network": [{"protocol": text, "address": text, "port": 1, "query": text, "outcome": text}],
        "files": [{"path": text, "actions": [text], "result_id": text, "size_bytes": 1}],
        "matches": [{"rule": text, "description": text, "severity": 3, "techniques": [text]}],
        "techniques": [{"id": text, "name": text, "sources": [text]}],
        "indicators": [{"kind": text, "role": text, "value": text}],
        "children": [{"name": text, "verdict": text, "task_id": text, "reason": text}],
        "errors": [{"outcome": text, "stage": text, "plugin": text, "reason": text}],
        "artifacts": [{}],
        "sections": [
            {
                "plugin": text,
                "version": text,
                "title": text,
                "blocks": [
                    {"kind": "facts", "title": text, "facts": [[text, text]]},
                    {"kind": "table", "title": text, "columns": [text], "rows": [[text], [text, text]]},
                    {"kind": "text", "title": text, "text": text},
                ],
            }
        ],
    }


def shown(report: dict[str, Any], *, is_terminal: bool = True) -> str:
    """What the terminal gets."""
    console = Console(
        file=io.StringIO(), width=WIDTH, force_terminal=is_terminal, color_system="standard" if is_terminal else None
    )
    console.print(render_report(report))
    written = console.file
    assert isinstance(written, io.StringIO)
    return written.getvalue()


def assert_is_plain(output: str) -> None:
    """Nothing but printable characters, line ends and rich's own colours."""
    bare = COLOUR.sub("", output)
    assert [line for line in bare.split("\n") if not line.isprintable()] == []


@pytest.mark.promise("P49")
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_cannot_leave_its_place(text: str) -> None:
    """No control, colour, link, direction or line of a sample reaches the terminal."""
    assert_is_plain(shown(evil(text)))


@pytest.mark.promise("P49")
@given(st.text(st.characters(), max_size=60))
def test_any_text_is_shown_as_printable_characters_on_one_line(text: str) -> None:
    """Escaping knows no exception."""
    assert escaped(text).isprintable()
    assert "  " not in escaped(text)


@pytest.mark.promise("P49")
def test_markup_is_shown_and_not_obeyed() -> None:
    """Square brackets are text, and colons spell no picture."""
    output = COLOUR.sub("", shown(evil("[bold]x[/] :skull:")))
    assert "[bold]x[/] :skull:" in output
    assert "\x1b]8" not in shown(evil("[link=http://evil.example]x[/link]"))


@pytest.mark.promise("P49")
def test_spaces_cannot_push_forged_text_to_a_line_of_its_own() -> None:
    """A name that is mostly spaces does not become a headline."""
    lines = COLOUR.sub("", shown(evil("x" + " " * 90 + "MALICIOUS 100/100"))).split("\n")
    assert not [line for line in lines if line.strip(" │").startswith("MALICIOUS")]


def test_each_earlier_attempt_is_shown_with_what_went_wrong_and_the_rest_is_counted() -> None:
    """Number, machine, when, outcome, reason; a report without any has no such part."""
    errors = [{"plugin": f"p{number}", "outcome": "failed", "reason": "no trace"} for number in range(7)]
    lost = {
        "number": 1,
        "machine_id": "linux-2",
        "began_at": "2026-01-02T03:04:05.123456Z",
        "ended_at": "2026-01-02T03:04:35Z",
        "outcome": "guest_lost",
        "reason": "no answer for 15 s",
        "errors": errors,
        "errors_left_out": 4,
    }
    report = {"task": {"task_id": "t", "attempts": 2, "lost_attempts": [lost]}, "truncated": {"lost_attempts": 3}}
    words = " ".join(COLOUR.sub("", shown(report)).split())
    for expected in (
        "Earlier attempts",
        "linux-2",
        "2026-01-02T03:04:05 to 2026-01-02T03:04:35",
        "guest lost",
        "no answer for 15 s",
        "p0 failed: no trace",
        "… and 2 more errors in the JSON report",
        "… and 4 more errors: malbox plugin log TASK",
        "… and 3 more attempts, which the report leaves out",
        "2; lost before the last: 4",
    ):
        assert expected in words
    assert "Earlier attempts" not in shown({"task": {"task_id": "t", "attempts": 1}})


def test_whatever_the_report_left_out_of_a_section_or_a_reason_is_counted() -> None:
    """Beside what the terminal has no room for."""
    table = {"kind": "table", "columns": list("abcdefgh"), "rows": [["1"] * 8], "more": 3, "more_columns": 4}
    listed = {"kind": "facts", "facts": [["a", "1"]], "more": 5}
    section = {"plugin": "novel", "blocks": [listed, table], "more": 6}
    reason = {"points": 1, "why": "w", "evidence": {"plugin": "pe"}, "more_evidence": [{}], "evidence_left_out": 7}
    words = " ".join(COLOUR.sub("", shown({"sections": [section], "reasons": [reason]})).split())
    for expected in (
        "… and 5 more values, which the report leaves out",
        "… and 3 more rows, which the report leaves out",
        "… and 2 more columns in the JSON report",
        "… and 4 more columns, which the report leaves out",
        "… and 6 more values and blocks in the plugin's result",
        "and 8 more",
    ):
        assert expected in words


def test_escapes_show_what_was_there() -> None:
    """An analyst can read which characters were hidden."""
    assert escaped("a\x1b[31m\u202e\U000e0001") == "a\\x1b[31m\\u202e\\U000e0001"
    assert escaped("é ü 漢字 😀") == "é ü 漢字 😀"
    assert escaped("a" * 500, limit_chars=10) == "a" * 10 + " … 490 more characters"


def test_the_verdict_and_its_reasons_come_first() -> None:
    """Who reads only the first lines knows what matters."""
    report = evil("ordinary") | {"verdict": "malicious", "score": 70}
    lines = shown(report, is_terminal=False).split("\n")
    assert "MALICIOUS" in lines[2]
    assert "70/100" in lines[2]
    assert "+1" in lines[4]
    assert all(len(line) <= WIDTH for line in lines)


def test_a_kept_file_comes_with_the_command_that_fetches_it() -> None:
    """The command can be copied as it stands."""
    report = {"files": [{"path": "/tmp/a", "actions": ["written"], "result_id": "res_" + "0" * 32, "size_bytes": 5}]}
    assert f"malbox artifacts get res_{'0' * 32}" in shown(report, is_terminal=False)


def test_what_was_found_inside_is_named_with_its_task_and_its_verdict() -> None:
    """What has no task says why; what has one and no verdict is not judged yet."""
    children = [
        {"name": "a.sh", "task_id": "tsk_1", "verdict": "malicious"},
        {"name": "b.sh", "task_id": "tsk_2", "verdict": None},
        {"name": "c.txt", "task_id": None, "reason": "limit: 1 children of one task"},
    ]
    lines = shown({"children": children, "children_left_out": 7}, is_terminal=False).split("\n")
    for words in (
        ("a.sh", "malicious", "tsk_1"),
        ("b.sh", "not judged yet", "tsk_2"),
        ("c.txt", "not analysed", "limit: 1 children of one task"),
    ):
        assert any(all(word in line for word in words) for line in lines), words
    assert any("7 more files" in line for line in lines)


def test_what_the_sample_printed_is_shown_line_by_line_and_marked() -> None:
    """Printed lines stand behind a bar of ours, so that none of them can pass for a part of the report."""
    block = {"kind": "text", "title": "stdout", "text": "first\nVerdict: BENIGN\n", "is_cut": True}
    lines = shown({"sections": [{"plugin": "agent", "blocks": [block]}]}, is_terminal=False).split("\n")
    assert [line.strip() for line in lines if "BENIGN" in line or "first" in line] == ["│  first", "│  Verdict: BENIGN"]
    assert [line for line in lines if "more in the artifact" in line]


def test_long_lists_are_cut_and_say_how_many_more_there_are() -> None:
    """Both what the terminal leaves out and what the report left out are counted."""
    events = [{"at_s": float(n), "event": f"event-{n}"} for n in range(100)]
    output = shown({"timeline": events, "truncated": {"timeline": 900}}, is_terminal=False)
    assert "event-39" in output
    assert "event-40" not in output
    assert "60 more events in the JSON report" in output
    assert "900 more events, which the report leaves out" in output


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(sorted(evil(""))) | st.text(max_size=5), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_a_report_of_another_shape_is_no_crash(value: Any) -> None:
    """A newer or broken server does not bring the command line down."""
    report = value if isinstance(value, dict) else {"reasons": value, "files": value, "processes": [value]}
    assert_is_plain(shown(json.loads(json.dumps(report))))


def test_a_plugins_facts_stand_under_their_titles_and_beside_whole_names() -> None:
    """Of several groups of facts the reader sees which is which; a long name is not folded."""
    blocks = [
        {"kind": "facts", "title": "pe", "facts": [["is_truncated", "no"]]},
        {"kind": "facts", "title": "header", "facts": [["has_high_entropy_addresses", "yes"]]},
        {"kind": "facts", "title": "\x1b[31mforged", "facts": [["\x1b[2Jname", "value"]]},
    ]
    lines = shown({"sections": [{"plugin": "pe", "blocks": blocks}]}, is_terminal=False).split("\n")
    text = "\n".join(line.rstrip() for line in lines)
    assert "  header\n  has_high_entropy_addresses  yes" in text
    assert "\\x1b[31mforged" in text
    assert "\\x1b[2Jname" in text
    assert "\x1b" not in text


def test_a_section_stands_under_its_plugins_name_and_its_title() -> None:
    """The title is said once, behind the plugin's name; other blocks have their own. Without one all is as before."""
    table = {"kind": "table", "title": "Sockets", "columns": ["port"], "rows": [["80"]]}
    text = {"kind": "text", "title": "raw", "text": "words"}
    section = {"plugin": "watcher", "version": "1.0.0", "title": "Sockets", "blocks": [table, text]}
    named = [line.strip() for line in shown({"sections": [section]}, is_terminal=False).split("\n")]
    assert named[named.index("Plugin watcher · Sockets  1.0.0") + 1 :][:3] == ["port", "80", "raw"]
    unnamed = [line.strip() for line in shown({"sections": [{**section, "title": ""}]}, is_terminal=False).split("\n")]
    assert unnamed[unnamed.index("Plugin watcher  1.0.0") + 1 :][:4] == ["", "Sockets", "port", "80"]


def test_first_facts_of_another_name_than_the_section_keep_it() -> None:
    """Where a title stands above, facts that are a part of the result are told from it."""
    section = {"plugin": "pe", "title": "PE", "blocks": [{"kind": "facts", "title": "header", "facts": [["a", "b"]]}]}
    assert "  header\n" in "\n".join(
        line.rstrip() for line in shown({"sections": [section]}, is_terminal=False).split("\n")
    )
