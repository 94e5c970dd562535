"""Bundled guest plugins on the agent's side: real processes, well and badly behaved, each contained and named."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.guest import agent_pb2 as pb
from guest import limits
from guest.receiving import StepRefused
from tests.unit.guest.bundled import FAITHFUL, Side, make_plugin, side_of

HANG_MAX_S = 60.0
SLOW = "class Plugin(GuestPlugin):\n    def {call}(self, *_):\n        time.sleep(600)\n"


@pytest.fixture(name="side")
def side_fixture(tmp_path: Path) -> Iterator[Side]:
    """A lease whose plugins are gone afterwards."""
    side = side_of(tmp_path)
    yield side
    side.bundles.end_all()
    side.journal.close()


def through(side: Side, *names: str) -> dict[str, pb.ShutdownPluginReply]:
    """Armed, told, flushed and shut down; how each ended."""
    side.bundles.arm()
    for name in names:
        side.bundles.tell(name, "msg-1", "SampleStarted", {"pid": 7})
    side.bundles.flush()
    return {name: side.bundles.end(name) for name in names}


def test_a_plugin_lives_through_its_calls_in_order_and_its_evidence_is_counted(side: Side, tmp_path: Path) -> None:
    """What it emits in each call is in the journal, in order, under its own count; its log is kept."""
    name = side.start(make_plugin(tmp_path, "faithful"), {"depth": 3})
    ending = through(side, name)[name]
    assert side.seen(name) == [["initialize", {"depth": 3}], "arm", ["SampleStarted", {"pid": 7}], "flush"]
    assert [piece.sequence for piece in side.pieces(name)] == [0, 1, 2, 3]
    assert (ending.outcome, ending.reason, ending.pieces) == ("completed", "", 4)
    assert b"was_shut_down" in ending.log
    assert side.bundles.end(name) == ending


def test_calls_that_are_repeated_are_made_once(side: Side, tmp_path: Path) -> None:
    """A host that lost a reply asks again, tells again, and changes nothing."""
    folder = make_plugin(tmp_path, "faithful")
    name = side.start(folder)
    assert side.start(folder) == name
    for _ in range(2):
        side.bundles.arm()
        assert side.bundles.tell(name, "msg-1", "SampleExited", {})
    for _ in range(2):
        side.bundles.flush()
    assert [str(record) for record in side.seen(name)] == ["['initialize', {}]", "arm", "['SampleExited', {}]", "flush"]
    with pytest.raises(StepRefused, match="another configuration"):
        side.start(folder, {"depth": 4})


@pytest.mark.promise("P30", "P33")
@pytest.mark.parametrize("call", ["initialize", "arm", "on_event", "flush", "shutdown"])
def test_a_plugin_that_hangs_in_a_call_is_ended_and_named_and_another_is_not_harmed(
    call: str, side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is in the reason; the plugin beside it completes with all its evidence."""
    began_at = time.monotonic()
    monkeypatch.setattr(limits, "PLUGIN_START_S", 0 if call == "initialize" else 20)
    slow = side.start(make_plugin(tmp_path, "slow", SLOW.format(call=call), timeout_s=1))
    good = side.start(make_plugin(tmp_path, "good"))
    endings = through(side, slow, good)
    assert time.monotonic() - began_at < HANG_MAX_S
    assert (endings[slow].outcome, endings[slow].reason) == ("timed_out", f"{call} took longer than 1 s")
    assert (endings[good].outcome, len(side.seen(good))) == ("completed", 4)


@pytest.mark.promise("P30")
@pytest.mark.parametrize(
    ("code", "outcome", "reason"),
    [
        ("def initialize(self, config): raise PluginSkipped('nothing to watch')", "skipped", "nothing to watch"),
        ("def initialize(self, config): raise PluginFailure('no inotify')", "failed", "no inotify"),
        ("def arm(self): raise KeyError('x')", "crashed", "KeyError: 'x'"),
        ("def arm(self): threading.Thread(target=lambda: 1 / 0).start(); time.sleep(5)", "crashed", "ZeroDivision"),
        ("def flush(self): os.kill(os.getpid(), 9)", "crashed", "signal 9"),
        ("def flush(self): os._exit(3)", "crashed", "ended by itself with 3"),
        ("def flush(self): sys.exit(0)", "crashed", "SystemExit: 0"),
        ("def flush(self): self.emit('seen', 'x' * 100_000)", "crashed", "the limit is"),
        ("def flush(self): self._outlet._stream.raw.write(b'garbage' * 9)", "failed", "broke the protocol"),
        ("def flush(self): self._outlet._stream.raw.write(b'J' + bytes([255] * 4))", "failed", "the limit is"),
        ("def flush(self): self._outlet.say(frame='done', call='shutdown')", "failed", "not asked"),
        (("def flush(self): self._outlet.say(frame='evidence', sequence=-1); "
         "self._outlet._stream.raw.write(b'B\\0\\0\\0\\0')"), "failed", "without a sequence"),
        ("def flush(self): self._outlet.say(frame='ended', outcome='completed', reason='')", "failed", "no known kind"),
    ],
)  # fmt: skip
def test_whatever_a_plugin_does_is_its_own_outcome(
    code: str, outcome: str, reason: str, side: Side, tmp_path: Path
) -> None:
    """It is named with its reason, what it emitted before stays, and the plugin beside it completes."""
    before = "class Plugin(GuestPlugin):\n    def __init__(self, *given):\n        super().__init__(*given)\n"
    emits = "        self.emit('seen', 'before')\n    "
    bad = side.start(make_plugin(tmp_path, "bad", f"{before}{emits}{code}\n"))
    good = side.start(make_plugin(tmp_path, "good"))
    endings = through(side, bad, good)
    assert (endings[bad].outcome, reason in endings[bad].reason) == (outcome, True), endings[bad]
    assert side.seen(bad) == ["before"]
    assert (endings[good].outcome, len(side.seen(good))) == ("completed", 4)


@pytest.mark.promise("P30")
@pytest.mark.parametrize("by", ["pieces", "bytes"])
def test_a_flood_of_evidence_ends_the_plugin_and_no_other(
    by: str, side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came until the limit is kept; the plugin beside it is not kept from anything."""
    monkeypatch.setattr(limits, "PLUGIN_PIECES_MAX", 50 if by == "pieces" else 10_000)
    monkeypatch.setattr(limits, "PLUGIN_EVIDENCE_MAX_BYTES", 5000 if by == "bytes" else 1 << 30)
    code = "class Plugin(GuestPlugin):\n    def arm(self):\n        while True: self.emit('seen', 'x' * 100)\n"
    flood = side.start(make_plugin(tmp_path, "flood", code))
    good = side.start(make_plugin(tmp_path, "good"))
    endings = through(side, flood, good)
    assert (endings[flood].outcome, "of evidence" in endings[flood].reason) == ("failed", True)
    assert len(side.pieces(flood)) == endings[flood].pieces > 40
    assert (endings[good].outcome, len(side.seen(good))) == ("completed", 4)


def test_a_flood_of_log_is_cut_and_is_not_evidence(side: Side, tmp_path: Path) -> None:
    """The log has a limit and ends with what is left out; the plugin goes on, and its wire is not broken."""
    code = FAITHFUL.replace("def arm(self):", "def arm(self):\n        print('x' * 300_000)")
    name = side.start(make_plugin(tmp_path, "loud", code))
    ending = through(side, name)[name]
    assert ending.outcome == "completed"
    assert len(ending.log) <= limits.PLUGIN_LOG_MAX_BYTES
    kept, _, cut = ending.log.decode().rpartition("\n[")
    left_out, _, words = cut.partition(" ")
    assert words == "bytes more of log were not kept]\n"
    assert 0 <= len(kept) + int(left_out) - 300_001 < 200  # beside the flood, what it logs of its calls


def test_a_result_of_many_pieces_arrives_whole(side: Side, tmp_path: Path) -> None:
    """Bytes and files are cut, in order, and end with a piece that says so."""
    code = """
    class Plugin(GuestPlugin):
        def flush(self):
            self.emit_bytes("kept", b"k" * 100_000, "text/plain")
            path = self.scratch / "one"
            path.write_bytes(b"f" * 70_000)
            self.emit_file("files/one", path)
    """
    name = side.start(make_plugin(tmp_path, "large", code))
    assert through(side, name)[name].outcome == "completed"
    for result, content in (("kept", b"k" * 100_000), ("files/one", b"f" * 70_000)):
        pieces = [piece for piece in side.pieces(name) if piece.name == result]
        assert b"".join(piece.content for piece in pieces) == content
        assert [piece.is_last for piece in pieces] == [False, False, True]


def test_a_plugin_that_is_slow_for_what_it_is_told_is_told_no_more(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue has a bound; who asks hears that the fact was not taken."""
    monkeypatch.setattr(limits, "PLUGIN_FACTS_WAITING_MAX", 3)
    name = side.start(make_plugin(tmp_path, "slow", SLOW.format(call="on_event"), timeout_s=20))
    taken = [side.bundles.tell(name, f"msg-{number}", "PluginStarted", {}) for number in range(10)]
    assert taken[0]
    assert not taken[-1]
    assert not side.bundles.tell("nobody", "msg-0", "PluginStarted", {})


def test_a_bundle_is_what_was_announced_and_of_a_name_that_is_one(side: Side, tmp_path: Path) -> None:
    """Other bytes, too many bytes, a path for a name, and a plugin that was not put are refused."""
    header = pb.PutHeader(name="x", size_bytes=3, sha256=b"\0" * 32, plugin="x")
    with pytest.raises(StepRefused, match="not those that were announced"):
        side.bundles.put("x", header, iter([b"abc"]))
    with pytest.raises(StepRefused, match="no name of a plugin"):
        side.bundles.put("../x", header, iter([b"abc"]))
    with pytest.raises(StepRefused, match="the limit is"):
        side.bundles.put("x", pb.PutHeader(size_bytes=limits.PLUGIN_BUNDLE_MAX_BYTES + 1), iter([]))
    with pytest.raises(StepRefused, match="was not put"):
        side.bundles.initialize("x", {}, pb.PluginBundle(sha256=b"\0" * 32))
    side.start(make_plugin(tmp_path, "faithful"))
    with pytest.raises(StepRefused, match="is another one already"):
        side.bundles.put("faithful", header, iter([b"abc"]))
