"""A real agent on loopback, a real strace, and harmless samples written here: the whole life of a lease."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from guest import limits
from services.machines.adapters import canary
from services.machines.errors import GuestRefused as MachineGuestRefused
from services.machines.errors import GuestUnreachable as MachineGuestUnreachable
from services.plugins.adapters.guest_agent import GrpcGuestConnector, GrpcGuestSession, guest_session
from services.plugins.builtin.behaviour.behaviour import Behaviour
from services.plugins.ports_guest import (
    Collected,
    EvidenceFrame,
    Flushed,
    GuestEvent,
    GuestRefused,
    GuestUnreachable,
    Heartbeat,
    Launched,
    ProcessExited,
    ProcessStarted,
    RecordSealed,
    TreeEmpty,
)
from tests.integration.guest_harness import LEASE_ID, MACHINE_ID, RunningAgent, lease, make_client, running_agent
from tests.security.network.processes import descendants, open_files, text_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="the agent is root in its guest, and so it must be here"),
]
OTHER_LEASE_ID = "lea_" + "cd" * 16
ASLEEP = b'["sleep", "300"]'
"""Traced once a script has done all that it does before it sleeps."""
SERVED_MAX_S = 60.0


@pytest.fixture(name="folder")
def folder_fixture() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="malbox-agent-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(name="agent")
def agent_fixture(folder: Path) -> Iterator[RunningAgent]:
    """An agent that waits to be enrolled."""
    with running_agent(folder) as agent:
        yield agent


@pytest.fixture(name="session")
async def session_fixture(agent: RunningAgent) -> AsyncIterator[GrpcGuestSession]:
    """A session with an agent that was attested and enrolled."""
    await agent.enroller.attest(agent.address, agent.authority, MACHINE_ID, timeout_s=10)
    identity = await agent.enrol()
    async with guest_session(agent.connector, agent.endpoint(identity), lease(), timeout_s=10) as session:
        yield session


async def start(session: GrpcGuestSession, folder: Path, script: str, interpreter: str = "/bin/sh") -> Launched:
    """A script runs under the armed tracer."""
    source = folder / "source"
    source.write_text(script, encoding="utf-8")
    path = await session.put(source, "sample.sh")
    await session.init_plugin("syscalls", {})
    await session.arm()
    return await session.launch((interpreter, path))


async def watch_until(session: GrpcGuestSession, kind: type[GuestEvent], *, timeout_s: float = 60) -> list[GuestEvent]:
    """The events up to the first of that kind."""
    seen: list[GuestEvent] = []
    stream = session.watch()
    async with asyncio.timeout(timeout_s):
        async for event in stream:
            seen.append(event)
            if isinstance(event, kind):
                break
    await stream.aclose()
    return seen


async def watch_until_traced(session: GrpcGuestSession, words: bytes) -> list[GuestEvent]:
    """The events up to the one with which the trace holds those words: the sample has come so far."""
    seen: list[GuestEvent] = []
    stream = session.watch()
    async with asyncio.timeout(60):
        async for event in stream:
            seen.append(event)
            if words in evidence(seen, "syscalls"):
                break
    await stream.aclose()
    return seen


async def finish(session: GrpcGuestSession, folder: Path) -> tuple[Flushed, list[GuestEvent], Collected]:
    """The observation is over; the whole record and the files."""
    flushed = await session.flush()
    events = await watch_until(session, RecordSealed)
    into = folder / "collected"
    into.mkdir()
    return flushed, events, await session.collect(into)


def evidence(events: Sequence[GuestEvent], source: str) -> bytes:
    """The bytes of one source."""
    return b"".join(one.content for one in events if isinstance(one, EvidenceFrame) and one.source == source)


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


@pytest.mark.promise("C4")
async def test_the_agent_uses_and_reports_the_settings_it_was_given(
    session: GrpcGuestSession, agent: RunningAgent, folder: Path
) -> None:
    """MALBOX_WORK_DIR and the others are effective: reported in the handshake, and used."""
    hello = await session.hello()
    assert hello.settings["work_dir"] == str(agent.work_dir)
    assert agent.work_dir.is_dir()
    assert agent.work_dir.stat().st_mode & 0o077 == 0
    assert hello.settings["agent_port"] == str(agent.address.port)
    source = folder / "source"
    source.write_bytes(b"x")
    assert Path(await session.put(source, "a")).parent == agent.sample_dir


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


async def test_a_watcher_that_comes_back_misses_nothing(
    session: GrpcGuestSession, agent: RunningAgent, folder: Path
) -> None:
    """Another driver with a later term takes over, goes on from the last position, and fences the earlier one."""
    await start(session, folder, "echo one; sleep 2; echo two\n")
    before = await watch_until(session, EvidenceFrame)
    position = max(getattr(one, "position", 0) for one in before)
    hello_identity = f"{LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox"
    later = lease(term=1)
    async with guest_session(agent.connector, agent.endpoint(hello_identity), later, timeout_s=10) as successor:
        after: list[GuestEvent] = []
        async for event in successor.watch(after_position=position):
            after.append(event)
            if isinstance(event, TreeEmpty):
                break
        with pytest.raises(GuestRefused, match="later driver"):
            await session.flush()
        await successor.flush()
        seen = max(getattr(one, "position", 0) for one in after)
        after += [event async for event in successor.watch(after_position=seen)]  # what was printed may come last
    record = [one for one in [*before, *after] if not isinstance(one, Heartbeat)]
    assert [getattr(one, "position", 0) for one in record] == list(range(1, len(record) + 1))
    assert evidence(record, "stdout") == b"one\ntwo\n"


async def rest(stream: AsyncIterator[GuestEvent]) -> list[GuestEvent]:
    """Everything up to the end of the stream."""
    return [event async for event in stream]


@pytest.mark.promise("P2", "P28")
async def test_streams_of_a_replaced_driver_end(session: GrpcGuestSession, agent: RunningAgent, folder: Path) -> None:
    """A watch that goes on, and files that are being handed out, are cut at the first call of a later driver."""
    await start(session, folder, "exec sleep 300\n")
    stream = session.watch()
    await anext(stream)
    identity = f"{LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox"
    async with guest_session(agent.connector, agent.endpoint(identity), lease(term=1), timeout_s=10) as later:
        await later.arm()
        with pytest.raises(GuestRefused, match="a later driver took this lease over"):
            await asyncio.wait_for(rest(stream), 10)
        collected = await session.collect(folder)
        assert isinstance(collected.fault, GuestRefused)
        assert collected.files == ()
        assert (await later.flush()).killed == 1
        assert (await later.collect(folder)).fault is None


@pytest.mark.promise("P2", "P3")
async def test_a_driver_that_does_not_know_of_the_launch_may_repeat_every_step(
    session: GrpcGuestSession, folder: Path
) -> None:
    """The first outcome of each comes again; another sample or another configuration is refused while this one runs."""
    launched = await start(session, folder, "exec sleep 300\n")
    assert await start(session, folder, "exec sleep 300\n") == launched
    with pytest.raises(GuestRefused, match="the sample runs already, and is another file"):
        await start(session, folder, "sleep 301\n")
    with pytest.raises(GuestRefused, match="another configuration"):
        await session.init_plugin("syscalls", {"string_bytes": 128})
    assert (await session.flush()).killed == 1


async def test_heartbeats_come_while_nothing_happens(session: GrpcGuestSession, folder: Path) -> None:
    """A sleeping sample is told from a lost guest by a beat a second."""
    await start(session, folder, "exec sleep 300\n")
    begun, beats = time.monotonic(), 0
    async with asyncio.timeout(60):
        async for event in session.watch():
            beats += isinstance(event, Heartbeat)
            if beats == 3:
                break
    assert time.monotonic() - begun >= 2 * limits.HEARTBEAT_S
    assert (await session.flush()).killed == 1


@pytest.mark.promise("P2", "P28", "G4")
@pytest.mark.parametrize(
    ("lease_id", "epoch"), [(OTHER_LEASE_ID, 7), (LEASE_ID, 6), (LEASE_ID, 8)], ids=["lease", "older", "newer"]
)
async def test_a_call_for_another_lease_or_epoch_is_refused(
    session: GrpcGuestSession, agent: RunningAgent, lease_id: str, epoch: int
) -> None:
    """A stale or foreign holder can neither arm, nor launch, nor flush; the holder can."""
    identity = f"{LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox"
    connected = guest_session(
        agent.connector, agent.endpoint(identity), lease(lease_id=lease_id, epoch=epoch), timeout_s=5
    )
    with pytest.raises(GuestRefused):
        async with connected as stranger:
            await stranger.arm()
    await session.arm()


@pytest.mark.promise("P8")
async def test_a_canary_is_planted_with_the_enrolment_and_one_of_before_is_shown(agent: RunningAgent) -> None:
    """A fresh agent shows none; one that finds a file of an earlier lease says where."""
    fresh = await agent.enroller.attest(agent.address, agent.authority, MACHINE_ID, timeout_s=10)
    assert fresh.canaries == ()
    (agent.work_dir / "canary").write_bytes(canary.of_lease(MACHINE_ID, OTHER_LEASE_ID, 6))
    used = await agent.enroller.attest(agent.address, agent.authority, MACHINE_ID, timeout_s=10)
    assert used.canaries == ("disk",)
    enrolment = await agent.enroller.enrol(
        agent.address, agent.authority, MACHINE_ID, lease_id=LEASE_ID, epoch=7, lifetime_s=600, timeout_s=20
    )
    assert enrolment.canary_places == ("memory", "disk")
    assert (agent.work_dir / "canary").read_bytes() == canary.of_lease(MACHINE_ID, LEASE_ID, 7)


@pytest.mark.promise("P28", "C1")
async def test_an_agent_of_another_authority_is_not_believed(session: GrpcGuestSession, agent: RunningAgent) -> None:
    """Something that answers at the address, under a certificate of another machine, proves nothing."""
    identity = f"{LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox"
    other = agent.enroller.create_authority(MACHINE_ID)
    for endpoint in (
        agent.endpoint(identity, ca_pem=other.ca_cert_pem),
        agent.endpoint(f"{OTHER_LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox"),
    ):
        with pytest.raises(GuestUnreachable):
            await agent.connector.connect(endpoint, lease(), timeout_s=1.5)
    with pytest.raises(MachineGuestUnreachable):
        await agent.enroller.attest(agent.address, other, MACHINE_ID, timeout_s=1.5)
    assert await session.hello()


@pytest.mark.promise("C1")
async def test_a_client_without_the_installations_identity_is_not_served(
    session: GrpcGuestSession, agent: RunningAgent, folder: Path
) -> None:
    """A client certificate of another authority gets nowhere; the right one does."""
    stranger = make_client(folder / "stranger", "stranger")
    connector = GrpcGuestConnector(client_cert_file=stranger.cert_file, client_key_file=stranger.key_file)
    endpoint = agent.endpoint(f"{LEASE_ID.replace('_', '-')}.{MACHINE_ID}.malbox")
    with pytest.raises(GuestUnreachable):
        await connector.connect(endpoint, lease(), timeout_s=1.5)
    assert await session.hello()


async def test_an_incarnation_is_enrolled_for_one_lease_only(agent: RunningAgent) -> None:
    """Fresh before, not after; the same lease again is the same; another lease is refused."""
    attested = await agent.enroller.attest(agent.address, agent.authority, MACHINE_ID, timeout_s=10)
    assert attested.is_fresh
    identity = await agent.enrol()
    assert await agent.enrol() == identity
    with pytest.raises((MachineGuestUnreachable, MachineGuestRefused)):
        await agent.enroller.enrol(
            agent.address,
            agent.authority,
            MACHINE_ID,
            lease_id=OTHER_LEASE_ID,
            epoch=8,
            lifetime_s=60,
            timeout_s=1.5,
        )
    with pytest.raises(MachineGuestUnreachable):
        await agent.enroller.attest(agent.address, agent.authority, MACHINE_ID, timeout_s=1.0)


async def test_an_agent_that_was_shut_down_serves_no_more(session: GrpcGuestSession) -> None:
    """Shutdown is the end of the session."""
    await session.shutdown_plugin("syscalls")
    await session.shutdown()
    with pytest.raises(GuestUnreachable):
        await asyncio.wait_for(asked_for_ever(session), SERVED_MAX_S)


async def asked_for_ever(session: GrpcGuestSession) -> None:
    """Who it is: it answers the call that ends it before it ends."""
    while True:
        await session.hello(timeout_s=1.0)


@pytest.mark.promise("C6")
async def test_everything_goes_through_one_endpoint_and_plugins_have_names(
    session: GrpcGuestSession, agent: RunningAgent, folder: Path
) -> None:
    """With a plugin armed and a sample running, the agent's processes listen on the endpoint's port and on no other."""
    await start(session, folder, "exec sleep 300\n")
    assert listening_ports(agent.pid) == {agent.address.port}
    assert set((await session.hello()).plugin_versions) == {"syscalls"}
    await session.flush()


def listening_ports(pid: int) -> set[int]:
    """The TCP ports on which the process or a descendant listens, in its own network (proc(5): state 0A)."""
    ports: set[int] = set()
    for one in (pid, *descendants(pid)):
        held = open_files(one)
        for table in ("tcp", "tcp6"):
            for line in text_of(Path(f"/proc/{one}/net/{table}")).splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == "0A" and f"socket:[{inode}]" in held:
                    ports.add(int(local.rpartition(":")[2], 16))
    return ports


@pytest.mark.promise("C6")
async def test_a_plugin_that_cannot_be_configured_so_is_refused(session: GrpcGuestSession) -> None:
    """An unknown plugin, an unknown key and an impossible value are errors, each with what is allowed."""
    with pytest.raises(GuestRefused, match="there are: syscalls"):
        await session.init_plugin("keylogger", {})
    for config in ({"speed": 3}, {"trace_max_mib": 0}, {"trace_max_mib": "9"}, {"string_bytes": True}):
        with pytest.raises(GuestRefused, match="allowed: trace_max_mib 1-256"):
            await session.init_plugin("syscalls", dict(config))
