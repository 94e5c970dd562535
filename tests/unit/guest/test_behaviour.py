"""The behaviour parser over a trace that strace 6.1 really wrote, and over garbage."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malbox.sdk import Input, PluginSkipped
from malbox.sdk.testing import run_plugin
from services.plugins.builtin.behaviour import record
from services.plugins.builtin.behaviour.behaviour import Behaviour
from services.plugins.builtin.behaviour.network import dns_question
from services.plugins.builtin.behaviour.plugin import run
from services.plugins.builtin.behaviour.strace import Call, Joiner, unescaped
from services.results.domain import inputs
from services.results.domain.bounds import INPUT_MAX_BYTES

TRACE = Path(__file__).parent / "traces" / "python.strace"
FRAGMENTS = (
    "1527  1795466031.072358 ",
    'execve("/bin/sh", ["sh", "-c", "id"], 0x1 /* 3 vars */',
    ") = 0",
    " <unfinished ...>",
    "<... execve resumed>",
    "clone(child_stack=NULL, flags=CLONE_THREAD) = 99999",
    'openat(AT_FDCWD</tmp>, "a", O_WRONLY|O_CREAT) = 3</tmp/a>',
    'sendto(3<UDP:[1]>, "\\0224\\1", 3, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("9.9.9.9")}, 16',
    "+++ killed by SIGKILL +++",
    "+++ exited with 0 +++",
    '"\\',
    "[{(<",
    "\n",
)


def parsed(content: bytes, tmp_path: Path) -> dict[str, Any]:
    """What the plugin emits for a trace."""
    trace = tmp_path / "trace"
    trace.write_bytes(content)
    given_input = Input(plugin="syscalls", name="syscalls", path=trace, media_type="application/octet-stream")
    emitted = run_plugin(run, trace, scratch=tmp_path, inputs=(given_input,))
    result: dict[str, Any] = emitted.json("behaviour")
    return result


@pytest.fixture(name="recorded")
def recorded_fixture(tmp_path: Path) -> dict[str, Any]:
    """The recorded trace's result."""
    return parsed(TRACE.read_bytes(), tmp_path)


def test_the_process_tree_is_rebuilt_with_arguments_and_ends(recorded: dict[str, Any]) -> None:
    """Parents, programs, arguments and how each process ended are those of the recorded run."""
    processes = {(*one["argv"][:1], one["exit_code"], one["signal"]): one for one in recorded["processes"]}
    shell = processes["/bin/sh", None, "SIGKILL"]
    first = recorded["processes"][0]
    assert first["argv"] == ["/usr/bin/python3", "-S", "-E", "/home/sample/rec.py"]
    assert shell["ppid"] == first["pid"]
    assert processes["cp", 0, None]["ppid"] == shell["pid"]
    assert processes["./copied", 0, None]["exe"] == "/home/sample/copied"
    assert processes["/bin/sleep", 0, None]["ended_at_s"] > shell["ended_at_s"]


def test_a_thread_is_not_listed_as_a_process(recorded: dict[str, Any]) -> None:
    """What a thread did is told of its process."""
    touched = next(one for one in recorded["files"] if one["path"].endswith("by-thread"))
    assert touched["pids"] == [recorded["processes"][0]["pid"]]
    assert len(recorded["processes"]) == 6


def test_files_are_told_with_every_action_and_error(recorded: dict[str, Any]) -> None:
    """Created, written, renamed, changed and deleted files, and refused attempts, each with its path."""
    files = {one["path"]: one for one in recorded["files"]}
    assert files["/home/sample/plain.txt"]["actions"] == ["created", "written", "renamed"]
    assert files["/home/sample/renamed.txt"]["actions"] == ["renamed", "chmod", "deleted"]
    assert files["/etc/shadow"]["actions"] == ["read", "created", "written"]
    assert files["/etc/shadow"]["errors"] == ["EACCES"]
    assert not any(path.startswith("/usr/lib/") for path in files)


def test_a_file_name_that_imitates_the_trace_stays_a_file_name(recorded: dict[str, Any]) -> None:
    """Quotes, brackets, a result and a line feed inside a name do not end the name."""
    assert r'/home/sample/odd\xff) = 3 "<name>\x0a' in {one["path"] for one in recorded["files"]}


def test_network_attempts_are_told_with_address_port_and_outcome(recorded: dict[str, Any]) -> None:
    """An attempt that the guest's missing route refused is evidence all the same."""
    attempts = {(one["address"], one["port"], one["protocol"], one["outcome"]) for one in recorded["network"]}
    assert ("198.51.100.7", 4444, "tcp", "ENETUNREACH") in attempts
    assert ("2001:db8::7", 443, "tcp", "ENETUNREACH") in attempts


def test_dns_questions_are_told_however_they_were_sent(recorded: dict[str, Any]) -> None:
    """By sendto, over a connected socket, and by sendmsg."""
    questions = {one["query"] for one in recorded["network"]} - {None}
    assert questions == {"evil.example", "again.example", "msg.example"}


def test_the_timeline_tells_attempts_on_other_processes(recorded: dict[str, Any]) -> None:
    """A refused ptrace stands in the timeline, which is in order of time."""
    events = recorded["timeline"]
    assert any(one["event"] == "ptrace" and "EPERM" in one["detail"] for one in events)
    assert any(one["event"] == "file_deleted" for one in events)
    assert recorded["is_truncated"] is False


def test_the_report_can_read_the_result(recorded: dict[str, Any]) -> None:
    """The result fits the model by which the report reads it, with nothing lost."""
    behaviour = inputs.read(inputs.Behaviour, json.dumps(recorded).encode())
    assert len(behaviour.processes) == len(recorded["processes"])
    assert len(behaviour.network) == len(recorded["network"]) > 0


def test_nothing_traced_is_said_to_be_nothing(tmp_path: Path) -> None:
    """Without a trace the plugin skips, and does not report an innocent sample."""
    with pytest.raises(PluginSkipped):
        run_plugin(run, TRACE, scratch=tmp_path)


@pytest.mark.promise("P30")
def test_a_flood_of_processes_files_and_names_is_cut_and_marked(tmp_path: Path) -> None:
    """More of everything than the bounds allow gives a bounded result that says that it was cut."""
    lines = []
    for number in range(record.FILES_MAX + 500):
        name = f"{number}" + "\\377" * 1200
        lines.append(f'{number + 1} 100.5 openat(AT_FDCWD</tmp>, "{name}", O_WRONLY|O_CREAT, 0666) = -1 EACCES (No)')
    result = parsed("\n".join(lines).encode(), tmp_path)
    assert result["is_truncated"] is True
    assert len(result["processes"]) <= record.PROCESSES_MAX
    assert len(result["files"]) <= record.FILES_MAX
    assert len(result["timeline"]) <= record.TIMELINE_MAX
    assert len(json.dumps(result)) < INPUT_MAX_BYTES


@pytest.mark.promise("P30")
@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=20)), max_size=40))
def test_no_mixture_of_real_pieces_makes_the_parser_raise(pieces: list[str]) -> None:
    """Whatever stands in a trace, the result is JSON that the report can read."""
    behaviour = Behaviour()
    for line in "".join(pieces).split("\n"):
        behaviour.feed(line.encode("utf-8", "replace").decode("latin-1"))
    content = json.dumps(behaviour.result(), allow_nan=False).encode()
    assert inputs.read(inputs.Behaviour, content).is_truncated is False


@pytest.mark.promise("P30")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_to_a_real_trace_makes_the_parser_raise(data: st.DataObject) -> None:
    """Bytes changed and lines cut anywhere in a recorded trace are read as far as they can be."""
    lines = TRACE.read_bytes().splitlines()
    behaviour = Behaviour()
    for _ in range(20):
        line = bytearray(data.draw(st.sampled_from(lines)))
        at = data.draw(st.integers(0, len(line) - 1))
        line[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=5))
        behaviour.feed(bytes(line).decode("latin-1"))
    assert behaviour.counts()["lines"] == 20
    assert json.dumps(behaviour.result(), allow_nan=False)


@given(st.binary(max_size=200))
def test_escapes_of_strace_are_undone(content: bytes) -> None:
    """Octal escapes of any bytes give back the bytes."""
    assert unescaped("".join(f"\\{byte:03o}" for byte in content)) == content


@given(st.binary(max_size=100), st.booleans())
def test_no_payload_makes_the_dns_reader_raise(payload: bytes, is_tcp: bool) -> None:  # noqa: FBT001 - drawn
    """Bytes that are not a question have no name; a name is short and printable."""
    name = dns_question(payload, is_tcp=is_tcp)
    assert name is None or (len(name) <= 253 and name.isascii() and name.isprintable())


def test_the_halves_of_an_interrupted_call_are_joined() -> None:
    """The call has the beginning's time and arguments and the end's outcome."""
    joiner = Joiner()
    assert joiner.read('7 100.25 openat(AT_FDCWD</tmp>, "a", O_RDONLY <unfinished ...>') is None
    assert joiner.read("8 100.30 getuid() = 0") is not None
    call = joiner.read("7 100.50 <... openat resumed>) = 3</tmp/a>")
    assert call == Call(7, 100.25, "openat", ("AT_FDCWD</tmp>", '"a"', "O_RDONLY"), "3</tmp/a>")
