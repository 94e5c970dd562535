"""Messages as Outlook saves them are read like those that were sent, the messages inside them too."""

import contextlib
import struct
from pathlib import Path
from typing import Any
from uuid import UUID

import compressed_rtf
import pytest

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.email import outlook, plugin, reading
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations
from tests.unit.plugins.office_files import compound

COMMON_SET = UUID("00062008-0000-0000-c000-000000000046").bytes_le
REMINDER_FILE = 0x851F
RTF = compressed_rtf.compress(b"{\\rtf1 http://c3.example/r}")
TRANSPORT = (
    "Microsoft Mail Internet Headers Version 2.0\r\nReceived: from x by y; now\r\n"
    "Authentication-Results: mx.b.example; dmarc=fail\r\nFrom: Eve <eve@c2.example>\r\n\r\n"
)


def properties(folder: str = "", /, **streams: str | bytes) -> dict[str, bytes]:
    """Streams of the folder: `p0037="text"` is text, `p1013=b"bytes"` is bytes, `a0037` is text of one byte each."""
    made = {f"{folder}__properties_version1.0": bytes(32)}
    for name, value in streams.items():
        kind = "0102" if isinstance(value, bytes) else "001E" if name.startswith("a") else "001F"
        content = value if isinstance(value, bytes) else value.encode("cp1252" if kind == "001E" else "utf-16-le")
        made[f"{folder}__substg1.0_{name[1:].upper()}{kind}"] = content
    return made


def attachment(number: int, folder: str = "", /, **streams: str | bytes) -> dict[str, bytes]:
    return properties(f"{folder}__attach_version1.0_#{number:08X}/", **streams)


def saved(*more: dict[str, bytes], **streams: str | bytes) -> bytes:
    """A message from Ann to Bob."""
    fields = {"p0037": "Grüße", "p0c1a": "Ann", "p5d01": "ann@a.example", "p0e04": "Bob", "p1000": "Hello", **streams}
    return compound({key: value for one in (properties(**fields), *more) for key, value in one.items()})


def names(*entries: tuple[int, int, int], sets: bytes = bytes(16) + COMMON_SET) -> dict[str, bytes]:
    """Who the named properties are: the name's number, the place of its set (shifted, lowest bit: a text), its own."""
    listed = b"".join(struct.pack("<IHH", *entry) for entry in entries)
    return {"__nameid_version1.0/__substg1.0_00020102": sets, "__nameid_version1.0/__substg1.0_00030102": listed}


INNER = "__attach_version1.0_#00000000/__substg1.0_3701000D/"
RINGS = names((0x8502, 4 << 1, 4), (REMINDER_FILE, 4 << 1, 5))
RING = "\\\\c2.example\\share\\ring.wav"


def inside(depth: int) -> dict[str, bytes]:
    """A message in a message, so deep, with a file in the innermost."""
    folder, made = "", dict[str, bytes]()
    for _ in range(depth):
        made |= attachment(0, folder, p3001="Fwd")
        folder += INNER
        made |= properties(folder, p1000="inner")
    return made | attachment(0, folder, p3707="deep.txt", p3701=b"deep")


def read(sample: Path, scratch: Path) -> Emitted:
    return run_plugin(plugin.run, sample, scratch=scratch)


def traits(said: Any) -> set[str]:
    return {one["name"] for one in said["traits"]}


def test_a_saved_message_is_read(make_sample: MakeSample, tmp_path: Path) -> None:
    """Headers from the properties, each form of the body, attachments handed out, in Outlook's order."""
    content = saved(
        attachment(0, p3707="notes, long.txt", p3704="NOTES~1.TXT", p370e="text/plain", p3701=b"hello"),
        attachment(1, a3704="SHORT.TXT", p3701=b"short"),
        p1000="see http://c2.example/a",
        p1013=b'<a href="http://c2.example/h">go</a>',
        p1009=RTF,
    )
    emitted = read(make_sample(content), tmp_path)
    said = emitted.json("email")
    assert said["headers"] == {"From": "Ann <ann@a.example>", "To": "Bob", "Subject": "Grüße"}
    assert [(part["type"], part["name"], part["size_bytes"]) for part in said["parts"]] == [
        ("text/plain", "", 23),
        ("text/html", "", 36),
        ("application/rtf", "", 27),
        ("text/plain", "notes, long.txt", 5),
        ("application/octet-stream", "SHORT.TXT", 5),
    ]
    assert [emitted.content[f"children/000{n}"] for n in (1, 2)] == [b"hello", b"short"]
    urls = {one["value"] for one in said["indicators"] if one["kind"] == "url"}
    assert urls == {"http://c2.example/a", "http://c2.example/h", "http://c3.example/r"}
    assert said["links"] == [{"target": "http://c2.example/h", "text": "go"}]
    assert (said["traits"], said["problems"], said["is_truncated"]) == ([], [], False)


def test_what_the_servers_wrote_is_believed_before_what_the_program_knew(
    make_sample: MakeSample, tmp_path: Path
) -> None:
    """The route, the results of authentication and the sender are in the headers of transport."""
    said = read(make_sample(saved(p007d=TRANSPORT)), tmp_path).json("email")
    assert (said["headers"]["From"], said["headers"]["Subject"]) == ("Eve <eve@c2.example>", "Grüße")
    assert said["received"] == ["from x by y; now"]
    assert traits(said) == {"mail_authentication_fails"}


def test_a_name_without_an_address_of_the_internet_is_shown_alone(make_sample: MakeSample, tmp_path: Path) -> None:
    """Exchange knows a sender by its directory."""
    content = saved(p5d01="", p0c1f="/O=EXAMPLE/OU=X/CN=ANN")
    assert read(make_sample(content), tmp_path).json("email")["headers"]["From"] == "Ann"


@pytest.mark.parametrize(
    ("content", "trait"),
    [
        (saved(attachment(0, p3707="a.js", p3701=b"x")), "mail_program_attached"),
        (saved(attachment(0, p3707="invoice.pdf.exe", p3701=b"x")), "name_hides_extension"),
        (saved(p0c1a="boss@b.example", p5d01="x@c2.example"), "mail_sender_deceives"),
        (saved(p1013='<a href="https://c2.example/">www.bank.example</a>'), "link_deceives"),
        (saved(RINGS, p8005=RING), "mail_reaches_out"),
        (saved(RINGS, p8005=RING.replace("example", "example@SSL@443")), "mail_reaches_out"),
        (saved(RINGS, inside(1), properties(INNER, p8005=RING)), "mail_reaches_out"),
        (saved(inside(1), attachment(1, p3707="a.js", p3701=b"x")), "mail_program_attached"),
    ],
)
def test_what_a_saved_message_does_is_a_trait(
    content: bytes, trait: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Each in a message that does nothing else; where Outlook would connect to is an indicator."""
    said = read(make_sample(content), tmp_path).json("email")
    assert trait in traits(said)
    hosts = {one["value"] for one in said["indicators"] if one["kind"] == "domain"}
    assert ("c2.example" in hosts) == (trait in ("mail_reaches_out", "link_deceives"))


def test_an_attachment_that_lies_elsewhere_is_told_by_its_place(make_sample: MakeSample, tmp_path: Path) -> None:
    """Outlook goes there when it is opened, not before."""
    content = saved(attachment(0, p3707="a.docx", p370d="\\\\c2.example\\share\\a.docx"))
    said = read(make_sample(content), tmp_path).json("email")
    assert [(part["name"], part["size_bytes"]) for part in said["parts"] if part["is_attachment"]] == [("a.docx", 0)]
    assert "file://c2.example/share/a.docx" in {one["value"] for one in said["indicators"]}
    assert traits(said) == set()


@pytest.mark.parametrize(
    "content",
    [
        saved(RINGS, p8005="C:\\Windows\\Media\\ring.wav"),
        saved(RINGS, p0037="\\\\c2.example\\share\\a"),
        saved(RINGS, p8004=RING),
        saved(p8005=RING),
        saved(names((REMINDER_FILE, 3 << 1, 5)), p8005=RING),
        saved(names((REMINDER_FILE, 4 << 1 | 1, 5)), p8005=RING),
        saved(names((REMINDER_FILE, 4 << 1, 5), sets=COMMON_SET), p8005=RING),
        saved(names((REMINDER_FILE, 0, 5), sets=COMMON_SET), p8005=RING),
    ],
    ids=["this host", "subject", "other property", "no names", "other set", "text", "set that is missing", "no set"],
)
def test_what_nobody_connects_for_is_no_trait(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """A path of this host, a subject, and what another program keeps in a property of its own."""
    assert traits(read(make_sample(content), tmp_path).json("email")) == set()


def test_messages_inside_a_message_are_read_to_a_depth(make_sample: MakeSample, tmp_path: Path) -> None:
    """The files of each are handed out; what is deeper is said."""
    for depth in (1, outlook.DEPTH_MAX - 1):
        emitted = read(make_sample(saved(inside(depth))), tmp_path)
        assert emitted.content["children/0001"] == b"deep"
        assert emitted.json("email")["problems"] == []
    emitted = read(make_sample(saved(inside(outlook.DEPTH_MAX))), tmp_path)
    assert "children/0001" not in emitted.content
    assert "depth" in emitted.json("email")["problems"][0]


def test_what_cannot_be_handed_out_is_said(make_sample: MakeSample, tmp_path: Path) -> None:
    """An object of another program, and a body that is not what it says."""
    object_ = {"__attach_version1.0_#00000000/__substg1.0_3701000D/CONTENTS": b"x"}
    said = read(make_sample(saved(attachment(0, p3001="Chart"), object_, p1009=b"x" * 40)), tmp_path).json("email")
    assert [part["name"] for part in said["parts"] if part["is_attachment"]] == ["Chart"]
    assert [words.split(":")[0] for words in said["problems"]] == ["body, application/rtf", "Chart"]


def test_a_stream_that_is_too_large_is_said(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not read, the rest is."""
    monkeypatch.setattr(outlook, "STREAM_MAX_BYTES", 100)
    content = saved(attachment(0, p3707="a", p3701=b"x" * 101), attachment(1, p3707="b", p3701=b"y" * 100))
    emitted = read(make_sample(content), tmp_path)
    assert [words.partition(": ")[2] for words in emitted.json("email")["problems"]] == [
        "more than 100 bytes, which are not read"
    ]
    assert emitted.content["children/0001"] == b"y" * 100


@pytest.mark.parametrize(
    ("bound", "streams", "problem"),
    [
        ("COMPRESSED_MAX_BYTES", {"p1009": RTF + bytes(2000)}, "more than 1000 bytes, which are not read"),
        ("TEXT_MAX_BYTES", {"p1000": "x" * 501}, ""),
        ("TEXT_MAX_BYTES", {"p1013": b"x" * 1001}, ""),
    ],
)
def test_a_body_that_is_read_in_part_is_told_of(  # noqa: PLR0917 - fixtures
    bound: str,
    streams: dict[str, Any],
    problem: str,
    make_sample: MakeSample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody takes what was read for all there is, nor a large body for a damaged one."""
    for module in (outlook, reading):
        monkeypatch.setattr(module, bound, 1000, raising=module is outlook)
    said = read(make_sample(saved(**streams)), tmp_path).json("email")
    assert said["is_truncated"]
    assert [words.partition(": ")[2] for words in said["problems"]] == [problem] * bool(problem)


@pytest.mark.promise("P38")
def test_a_saved_message_without_end_is_cut(make_sample: MakeSample, tmp_path: Path) -> None:
    """Attachments, files and properties end at a bound, and the result says so."""
    many = [attachment(number, p3707=f"{number}.txt", p3701=b"%d" % number) for number in range(400)]
    said = read(make_sample(saved(*many)), tmp_path).json("email")
    assert (len(said["parts"]), said["is_truncated"]) == (reading.LISTED_MAX, True)
    assert len(str(said)) < 200_000
    assert not any("processor time" in words for words in said["problems"])


def test_other_compound_files_are_skipped(make_sample: MakeSample, tmp_path: Path) -> None:
    """A document is not a message, nor if it holds one."""
    holds = compound({"WordDocument": b"x" * 64, **properties("ObjectPool/_1/", p0037="inner")})
    for content in (compound({"WordDocument": b"x" * 64}), holds, outlook.MAGIC, saved()[:600]):
        with pytest.raises(PluginSkipped):
            read(make_sample(content), tmp_path)


def test_a_damaged_saved_message_is_read_as_far_as_it_goes(make_sample: MakeSample, tmp_path: Path) -> None:
    """Cut and flipped in many places."""
    content = saved(inside(2), attachment(1, p3707="a.exe", p3701=b"MZ" * 4000), p1013=b"<a href='http://c2.example'>x")
    for damaged in mutations(content, 300, "outlook"):
        with contextlib.suppress(PluginFailure, PluginSkipped):
            assert len(read(make_sample(damaged), tmp_path).json("email")["parts"]) <= reading.LISTED_MAX
