"""A real agent, a real strace, and harmless samples written here: what is seen of a sample."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from services.plugins.adapters.guest_agent import GrpcGuestSession
from services.plugins.builtin.behaviour.behaviour import Behaviour
from services.plugins.ports_guest import (
    EvidenceFrame,
    ProcessExited,
    ProcessStarted,
    RecordSealed,
    TreeEmpty,
)
from tests.integration.guest_agent.course import ASLEEP, evidence, finish, start, watch_until, watch_until_traced
from tests.integration.guest_harness import (
    RunningAgent,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root in its guest, and so it must be here"),
]


@pytest.mark.promise("C1")
async def test_a_sample_is_followed_from_launch_to_the_end_of_its_tree(session: GrpcGuestSession, folder: Path) -> None:
    """Processes, output, trace and written files of a whole run arrive, in order and without a gap."""
    launched = await start(session, folder, "echo hello; echo oops >&2; echo loot > loot.txt; /bin/true; exit 3\n")
    seen = await watch_until(session, TreeEmpty)
    flushed, events, collected = await finish(session, folder)

    assert launched.exec_error == ""
    first = [one for one in seen if isinstance(one, ProcessStarted) and one.is_first]
    assert [one.pid for one in first] == [launched.pid]
    ended = [one for one in seen if isinstance(one, ProcessExited) and one.is_first]
    assert [(one.exit_code, one.signal) for one in ended] == [(3, None)]
    assert evidence(events, "stdout") == b"hello\n"
    assert evidence(events, "stderr") == b"oops\n"
    assert b'execve("/bin/true", ["/bin/true"]' in evidence(events, "syscalls")
    assert flushed.killed == 0
    assert [Path(one.guest_path).name for one in collected.files] == ["loot.txt"]
    assert collected.files[0].path.read_bytes() == b"loot\n"
    assert not any(one.gap_frames for one in events if isinstance(one, EvidenceFrame))
    assert session.frames_refused == 0


async def test_what_the_agent_says_it_recorded_is_what_arrived(session: GrpcGuestSession, folder: Path) -> None:
    """Frames and bytes of each source agree with the agent's summary."""
    await start(session, folder, "seq 1 20000; exit 0\n")
    await watch_until(session, TreeEmpty)
    flushed, events, _ = await finish(session, folder)
    for summary in flushed.sources:
        assert len(evidence(events, summary.source)) == summary.size_bytes
    assert {summary.source for summary in flushed.sources} == {"stdout", "stderr", "syscalls"}
    assert events[-1] == RecordSealed(flushed.last_position)


async def test_a_child_that_daemonizes_is_followed_and_ended(session: GrpcGuestSession, folder: Path) -> None:
    """A child in a session of its own keeps the tree alive; flush ends it, and what it wrote is collected."""
    await start(session, folder, "(setsid sh -c 'echo late > late.txt; exec sleep 300' >/dev/null 2>&1 &); exit 0\n")
    await watch_until(session, ProcessExited)
    seen = await watch_until_traced(session, ASLEEP)
    flushed, events, collected = await finish(session, folder)
    assert not any(isinstance(one, TreeEmpty) for one in seen)
    assert flushed.killed >= 1
    assert any(isinstance(one, ProcessExited) and one.signal == signal.SIGKILL for one in events)
    assert [Path(one.guest_path).name for one in collected.files] == ["late.txt"]


async def test_a_sample_has_limits_and_is_what_the_kernel_ends_first(
    session: GrpcGuestSession, agent: RunningAgent, folder: Path
) -> None:
    """As many processes as it may have and no dump of memory; the agent's own score is not the sample's."""
    own = scores_of_agent(agent.pid)
    look = "ulimit -H -u; ulimit -S -u; ulimit -H -c; cat /proc/self/oom_score_adj\n"
    await start(session, folder, look, interpreter="/bin/bash")
    await watch_until(session, TreeEmpty)
    _, events, _ = await finish(session, folder)
    assert evidence(events, "stdout").split() == [b"512", b"512", b"0", b"500"]
    assert scores_of_agent(agent.pid) == own


def scores_of_agent(pid: int) -> set[str]:
    """The scores of the agent's parent and of its phases."""
    phases = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return {Path(f"/proc/{one}/oom_score_adj").read_text(encoding="ascii") for one in (str(pid), *phases)}


async def test_the_sample_is_unprivileged_and_alone_on_its_network(session: GrpcGuestSession, folder: Path) -> None:
    """It runs as its user, reaches no route and not even the agent's port, and its attempts are in the trace."""
    port = session_port(await session.hello())
    script = (
        "import os, socket\n"
        "print(os.getuid() != 0, os.path.exists(os.environ['HOME']), 'PYTHONPATH' in os.environ)\n"
        f"for address in (('198.51.100.7', 4444), ('127.0.0.1', {port})):\n"
        "    try:\n"
        "        socket.create_connection(address, 2)\n"
        "        print('reached')\n"
        "    except OSError as error:\n"
        "        print(error.errno)\n"
    )
    with_positive_control = asyncio.open_connection("127.0.0.1", port)
    _, writer = await asyncio.wait_for(with_positive_control, 5)
    writer.close()
    await start(session, folder, script, "/usr/bin/python3")
    await watch_until(session, TreeEmpty)
    _, events, _ = await finish(session, folder)
    assert evidence(events, "stdout").split() == [b"True", b"True", b"False", b"101", b"111"]
    behaviour = Behaviour()
    for line in evidence(events, "syscalls").decode("latin-1").splitlines():
        behaviour.feed(line)
    attempts = {(one["address"], one["port"], one["outcome"]) for one in behaviour.result()["network"]}
    assert ("198.51.100.7", 4444, "ENETUNREACH") in attempts


def session_port(hello: object) -> int:
    """The port in the agent's effective settings."""
    return int(getattr(hello, "settings")["agent_port"])  # noqa: B009 - the field is a mapping of the guest's words


@pytest.mark.promise("G5")
async def test_a_hostile_file_name_stays_in_the_sample_directory(
    session: GrpcGuestSession, agent: RunningAgent, folder: Path
) -> None:
    """Separators, options and shell words in a name neither move the file nor run anything."""
    source = folder / "source"
    source.write_text("exit 0\n", encoding="utf-8")
    for name in ("../../etc/cron.d/x", "..\\..\\x", "-rf", "; touch pwned", "$(touch pwned)", "\n\r", "a" * 500, ".."):
        path = Path(await session.put(source, name))
        assert path.parent == agent.sample_dir
        assert await asyncio.to_thread(path.read_bytes) == b"exit 0\n"
    assert not list(agent.sample_dir.rglob("pwned"))


async def test_a_program_that_cannot_be_executed_is_told_as_such(session: GrpcGuestSession, folder: Path) -> None:
    """A corrupted executable is tried, and the kernel's answer comes back."""
    source = folder / "source"
    source.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    path = await session.put(source, "broken")
    launched = await session.launch((path,))
    assert "ENOEXEC" in launched.exec_error


async def test_deleted_files_and_links_are_handled(session: GrpcGuestSession, folder: Path) -> None:
    """A file that was deleted while it was open is rescued; a link to a secret is not followed."""
    script = (
        "ln -s /etc/shadow link; mkfifo pipe\n"
        "exec 5<> gone; echo secret >&5; rm gone; echo kept > kept\n"
        "exec sleep 300\n"
    )
    await start(session, folder, script)
    await watch_until_traced(session, ASLEEP)
    _, _, collected = await finish(session, folder)
    found = {Path(one.guest_path).name: one for one in collected.files}
    assert set(found) == {"gone", "kept"}
    assert found["gone"].is_deleted
    assert found["gone"].path.read_bytes() == b"secret\n"


@pytest.mark.promise("P30")
async def test_a_flood_of_files_and_output_is_cut_and_counted(session: GrpcGuestSession, folder: Path) -> None:
    """Too many files are omitted and counted, too large ones and endless output are cut and marked."""
    script = "for i in $(seq 100); do echo $i > f$i; done; head -c 20000000 /dev/zero > 0big; yes | head -c 5000000\n"
    await start(session, folder, script)
    await watch_until(session, TreeEmpty, timeout_s=60)
    flushed, events, collected = await finish(session, folder)
    assert len(collected.files) == 64
    assert collected.omitted == 101 - 64
    big = next(one for one in collected.files if one.guest_path.endswith("0big"))
    assert big.is_truncated
    assert big.size_bytes == 16 * 1024 * 1024
    assert next(one for one in flushed.sources if one.source == "stdout").is_truncated
    assert len(evidence(events, "stdout")) == 1024 * 1024


@pytest.mark.promise("P30")
async def test_a_sample_that_writes_single_bytes_does_not_flood_the_record(
    session: GrpcGuestSession, folder: Path
) -> None:
    """A hundred thousand one-byte writes become few frames, and the end of the tree still arrives."""
    script = "import os\nfor _ in range(100_000):\n    os.write(1, b'x')\n"
    await start(session, folder, script, "/usr/bin/python3")
    await watch_until(session, TreeEmpty, timeout_s=60)
    flushed, events, _ = await finish(session, folder)
    assert evidence(events, "stdout") == b"x" * 100_000
    assert next(one.frames for one in flushed.sources if one.source == "stdout") < 500
