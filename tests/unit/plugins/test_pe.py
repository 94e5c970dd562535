"""The structure of Windows executables, from files that the tests make, and from damaged ones."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pefile
import pytest

from malbox.sdk import PluginFailure, PluginSkipped, children, executables
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.archives import plugin as archives
from services.plugins.builtin.pe import dotnet, resources
from services.plugins.builtin.pe.imports import plain
from services.plugins.builtin.pe.plugin import run
from tests.unit.plugins import containers, dotnet_files
from tests.unit.plugins import pe_files as made
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.der import identity, signed_program
from tests.unit.plugins.mutations import mutations
from tests.unit.plugins.pe_files import Part, Portable

Read = Callable[[bytes], Emitted]
ORDINARY = {
    "KERNEL32.dll": [
        "ExitProcess",
        "GetModuleHandleW",
        "IsDebuggerPresent",
        "LoadLibraryA",
        "GetProcAddress",
        "ReadFile",
    ],
    "USER32.dll": ["MessageBoxW", "SetWindowsHookExW", "GetDC"],
    "ADVAPI32.dll": ["RegOpenKeyExW"],
}
RANDOM = random.Random(1).randbytes(4096)  # noqa: S311 - chosen to be repeated


@pytest.fixture
def read(make_sample: MakeSample, tmp_path: Path) -> Read:
    """Call it with bytes for what the plugin emits."""

    def read(content: bytes) -> Emitted:
        return run_plugin(run, make_sample(content), scratch=tmp_path)

    return read


def placed(portable: Portable, name: bytes, make: Callable[[int], bytes], directory: int, size: int = 0) -> Portable:
    """The file with one more section that a directory points to."""
    rva = made.next_rva(portable.parts)
    content = make(rva)
    portable.parts.append(Part(name, content, made.READ_ONLY))
    portable.directories[directory] = (rva, size or len(content))
    return portable


def rich_program() -> Portable:
    """A program with something in every part that is read."""
    portable = made.with_imports(ORDINARY, stub=made.rich([(0x105, 0x7809, 3)]), overlay=b"PK\x03\x04" + bytes(60))
    placed(portable, b".edata", lambda rva: made.exports(rva, "quiet.dll", ["first", "second"]), made.EXPORT)
    claims = made.version_info({"CompanyName": "Nobody", "OriginalFilename": "quiet.exe"})
    found = {(16, 1, 0x409): claims, (10, 7, 0x419): b"some data"}
    placed(portable, b".rsrc", lambda rva: made.resources(rva, found), made.RESOURCE)
    placed(portable, b".tls", lambda rva: made.tls(rva, [0x1000]), made.TLS, 40)
    offset = 0x400 + sum(-(-len(part.content) // 0x200) * 0x200 for part in portable.parts)
    return placed(portable, b".dbg", lambda rva: made.debug(rva, offset, "C:\\dev\\quiet.pdb"), made.DEBUG, 28)


def traits(read: Read, content: bytes) -> set[str]:
    """The names of what is remarkable about the file."""
    return {one["name"] for one in read(content).json("pe")["traits"]}


def test_every_part_of_a_program_is_described(read: Read) -> None:
    """Headers, sections, functions, resources, tools, callbacks and what is appended."""
    said = read(rich_program().build()).json("pe")
    assert said["problems"] == []
    assert not said["is_truncated"]
    assert (said["header"]["machine"], said["header"]["bits"], said["header"]["entry_section"]) == (
        "AMD64",
        64,
        ".text",
    )
    assert said["sections"][0]["rights"] == "r-x"
    assert [one["library"] for one in said["imports"]] == list(ORDINARY)
    assert said["imports"][1]["functions"] == ORDINARY["USER32.dll"]
    assert said["exports"] == {"name": "quiet.dll", "count": 2, "functions": ["first", "second"]}
    assert said["version_info"] == {"CompanyName": "Nobody", "OriginalFilename": "quiet.exe"}
    assert [(one["kind"], one["language"]) for one in said["resources"]] == [
        ("VERSION", "ENGLISH"),
        ("RCDATA", "RUSSIAN"),
    ]
    assert said["build"] == {"symbol_files": ["C:\\dev\\quiet.pdb"], "rich_key": "11223344", "tools": ["261.30729 x3"]}
    assert said["tls_callbacks"] == [0x140001000]
    assert (said["overlay"]["kind"], said["overlay"]["size_bytes"]) == ("ZIP archive", 64)
    assert ("path", "C:\\dev\\quiet.pdb") in [(one["kind"], one["value"]) for one in said["indicators"]]


def test_the_import_hash_is_that_of_the_field(read: Read) -> None:
    """The same as pefile's, which others compare with; none for a file without imports."""
    content = made.with_imports(ORDINARY).build()
    assert read(content).json("pe")["hashes"]["imphash"] == pefile.PE(data=content).get_imphash()
    assert read(Portable().build()).json("pe")["hashes"]["imphash"] is None


def test_an_ordinary_program_has_no_traits(read: Read) -> None:
    """What every second program has is nothing to remark on."""
    assert traits(read, made.with_imports(ORDINARY).build()) == set()


REMARKABLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a packer's section": ("packed", lambda: Portable([Part(b"UPX1", made.RETURNS)]).build()),
    "random code": ("packed", lambda: Portable([Part(b".text", RANDOM)]).build()),
    "code without bytes": (
        "packed",
        lambda: Portable([Part(b".a", made.RETURNS), Part(b".b", b"", made.CODE, 0x5000)]).build(),
    ),
    "code to write": (
        "writable_code",
        lambda: Portable([Part(b".text", made.RETURNS, made.CODE | made.WRITABLE)]).build(),
    ),
    "an entry into data": (
        "entry_point_outside_code",
        lambda: Portable([Part(b".text", made.RETURNS), Part(b".data", b"x", made.DATA)], entry=0x2000).build(),
    ),
    "an entry into nothing": ("entry_point_outside_code", lambda: Portable(entry=0x9000).build()),
    "a callback": (
        "runs_before_its_entry_point",
        lambda: placed(Portable(), b".tls", lambda rva: made.tls(rva, [0x1000]), made.TLS, 40).build(),
    ),
    "a program as resource": (
        "carries_a_program",
        lambda: placed(
            Portable(), b".rsrc", lambda rva: made.resources(rva, {(10, 1, 0): b"MZ" + bytes(90)}), made.RESOURCE
        ).build(),
    ),
    "a program appended": ("carries_a_program", lambda: Portable(overlay=Portable().build()).build()),
    "only loaders": (
        "resolves_imports_itself",
        lambda: made.with_imports({"KERNEL32.dll": ["LoadLibraryA", "GetProcAddress"]}).build(),
    ),
    "a forged signature": (
        "signature_invalid",
        lambda: Portable(directories={made.SECURITY: (0x400, 16)}, overlay=b"\x10\0\0\0\0\x02\x02\0not one!").build(),
    ),
    "a signature of one's own": (
        "signed_by_itself",
        lambda: signed_program(Portable().build(), identity("Nobody in particular")),
    ),
}


@pytest.mark.parametrize("name", REMARKABLE)
def test_what_is_remarkable_is_a_trait(read: Read, name: str) -> None:
    """Each for itself, and nothing else with it."""
    trait, make = REMARKABLE[name]
    assert traits(read, make()) == {trait}


def test_the_kind_of_characters_is_no_part_of_a_name() -> None:
    """Windows has most functions twice."""
    assert {plain(name) for name in ("URLDownloadToFileA", "URLDownloadToFileW", "URLDownloadToFile")} == {
        "urldownloadtofile"
    }


def test_a_signature_is_verified_and_its_signer_named(read: Read) -> None:
    """An intact one by an issued certificate is no trait; it is no part of what is appended."""
    root = identity("Root of the test")
    content = signed_program(rich_program().build(), identity("Signer of the test", root), root)
    said = read(content).json("pe")
    [signature] = said["signatures"]
    assert (signature["is_valid"], signature["is_digest_right"]) == (True, True)
    assert signature["signers"][0]["subject"] == "CN=Signer of the test"
    assert signature["signers"][0]["issuer"] == "CN=Root of the test"
    assert signature["certificates"] == ["CN=Signer of the test", "CN=Root of the test"]
    assert said["overlay"]["size_bytes"] == 64
    assert not {"signature_invalid", "signed_by_itself"} & {one["name"] for one in said["traits"]}


def test_a_signature_does_not_survive_a_changed_byte(read: Read) -> None:
    """The trait names whom it was taken from."""
    content = bytearray(
        signed_program(Portable().build(), identity("Signer of the test", identity("Root of the test")))
    )
    content[0x201] ^= 1
    said = read(bytes(content)).json("pe")
    assert (said["signatures"][0]["is_valid"], said["signatures"][0]["is_digest_right"]) == (False, False)
    [trait] = said["traits"]
    assert trait["name"] == "signature_invalid"
    assert "Signer of the test" in trait["detail"]


def test_a_dotnet_assembly_has_its_metadata(read: Read) -> None:
    """Name and version, what it refers to, and what it calls outside of .NET; other files have no such result."""
    emitted = read(
        dotnet_files.assembly(
            "Quiet", references=["mscorlib"], types=["Program"], members=["WriteLine"], native=["kernel32.dll"]
        ).build()
    )
    said = emitted.json("dotnet")
    assert said["problems"] == []
    assert (said["assembly"], said["module"], said["runtime"]) == ("Quiet 1.2.3.4", "Quiet.exe", "v4.0.30319")
    assert (said["references"], said["native_libraries"]) == (["mscorlib 4.0.0.0"], ["kernel32.dll"])
    assert (said["types"], said["members_used"]) == (["Space.Program"], ["WriteLine"])
    assert "dotnet" not in read(Portable().build()).content


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"MZ", b"MZ" + bytes(70), b"\x7fELF"])
def test_other_files_are_skipped(read: Read, content: bytes) -> None:
    """Not an error: there is nothing to do. A DOS program is none for Windows."""
    with pytest.raises(PluginSkipped):
        read(content)


def test_a_number_that_no_list_knows_is_shown_as_it_is(read: Read) -> None:
    """A forged subsystem costs nothing else."""
    content = bytearray(Portable().build())
    content[0x40 + 24 + 68] = 99
    said = read(bytes(content)).json("pe")
    assert (said["header"]["subsystem"], said["problems"]) == ("99", [])


def test_a_ruin_fails_in_words(read: Read) -> None:
    """The analyst reads that the file is corrupted."""
    with pytest.raises(PluginFailure, match="corrupted PE"):
        read(b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0\x64\x86")


def test_what_is_over_a_bound_is_left_out_and_said(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resources that overlap to gigabytes, and files blown up to pass by scanners."""
    found = {(10, number, 0): bytes(100) for number in range(20)}
    content = placed(Portable(), b".rsrc", lambda rva: made.resources(rva, found), made.RESOURCE).build()
    monkeypatch.setattr(resources, "HASHED_MAX_BYTES", 1000)
    said = read(content).json("pe")
    assert (len(said["resources"]), said["is_truncated"]) == (10, True)
    monkeypatch.setattr(executables, "READ_MAX_BYTES", 0x600)
    said = read(Portable(overlay=b"ab" * 10_000).build()).json("pe")
    assert said["is_truncated"]
    assert any("were read" in problem for problem in said["problems"])
    assert said["overlay"]["size_bytes"] == 20_000


@pytest.mark.parametrize("kind", ["native", "signed", "dotnet"])
def test_a_damaged_program_is_described_or_refused(read: Read, kind: str) -> None:
    """Cut off, bits flipped, bytes overwritten: bounded output or a refusal in words."""
    sample = {
        "native": lambda: rich_program().build(),
        "signed": lambda: signed_program(Portable().build(), identity("Nobody in particular")),
        "dotnet": lambda: dotnet_files.assembly(
            "Quiet", references=["a"] * 3, types=["b"] * 3, members=["c"] * 3, native=["d"]
        ).build(),
    }[kind]()
    for damaged in mutations(sample, 200, kind):
        with contextlib.suppress(PluginSkipped, PluginFailure):
            emitted = read(damaged)
            said: Any = emitted.json("pe")
            assert len(said["sections"]) <= 96
            assert len(emitted.content["pe"]) < 200_000
            assert len(emitted.content.get("dotnet", b"")) < 200_000


def test_damaged_metadata_is_a_problem_of_its_own(read: Read) -> None:
    """The rest of the program is described all the same."""
    content = dotnet_files.assembly("Quiet", references=[], types=[], members=[], native=[]).build()
    emitted = read(content.replace(b"BSJB", b"BSJX"))
    assert emitted.json("pe")["header"]["bits"] == 64
    assert emitted.json("dotnet")["problems"]


def test_a_cut_assembly_is_said_to_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as large as the bytes that are read, and no larger."""
    content = dotnet_files.assembly("Quiet", references=[], types=[], members=[], native=[]).build()
    monkeypatch.setattr(dotnet, "READ_MAX_BYTES", 64)
    said = dotnet.assembly(content)
    assert said["is_truncated"]
    assert len(said["problems"]) == 2


INSIDE = Portable(timestamp=1).build()
ZIP = containers.zipped({"a": b"one"})
CABINET = containers.cabinet("a", b"one")


def with_resource(content: bytes) -> bytes:
    """A program that has this as its one resource."""
    found = {(10, 7, 0x409): content}
    return placed(Portable(), b".rsrc", lambda rva: made.resources(rva, found), made.RESOURCE).build()


@pytest.mark.parametrize(
    ("make", "path", "inside"),
    [
        (lambda: with_resource(INSIDE), "resource RCDATA/7.exe", INSIDE),
        (lambda: Portable(overlay=INSIDE).build(), "overlay at 0x400.exe", INSIDE),
        (lambda: Portable(overlay=ZIP).build(), "overlay at 0x400.zip", ZIP),
        (lambda: with_resource(CABINET), "resource RCDATA/7.cab", CABINET),
    ],
    ids=["a program as resource", "a program appended", "a ZIP appended", "a cabinet as resource"],
)
def test_a_file_that_a_program_carries_comes_out(
    read: Read, make: Callable[[], bytes], path: str, inside: bytes
) -> None:
    """Programs and archives are handed out, byte for byte, under the place where they were."""
    emitted = read(make())
    [child] = emitted.json("pe")["children"]
    assert (child["path"], emitted.content[child["name"]]) == (path, inside)


def test_a_self_extracting_archive_comes_out_without_its_settings(read: Read) -> None:
    """7-Zip puts a text between the program and the archive; what is handed out is what `archives` can open."""
    inside = containers.seven_zipped({"a": b"one"})
    emitted = read(Portable(overlay=b';!@Install@!UTF-8!\r\nRunProgram="a"\r\n;!@InstallEnd@!\r\n' + inside).build())
    assert emitted.json("pe")["overlay"]["kind"] == "7-Zip archive"
    assert emitted.content["children/0001"] == inside


def test_an_ordinary_resource_is_no_child(read: Read) -> None:
    """Control: data, texts and pictures stay where they are."""
    assert read(with_resource(b"some data")).json("pe")["children"] == []


def test_what_is_appended_and_not_read_to_its_end_is_no_child(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part would be another file than the one that is there; the result says that not all was read."""
    monkeypatch.setattr(executables, "READ_MAX_BYTES", 0x600)
    said = read(Portable(overlay=Portable().build()).build()).json("pe")
    assert (said["overlay"]["kind"], said["children"], said["is_truncated"]) == ("Windows program", [], True)


def test_more_programs_than_are_handed_out_are_counted(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of many resources: the first come out, the rest are a number in words."""
    monkeypatch.setattr(children, "COUNT_MAX", 3)
    found = {(10, number, 0): Portable(timestamp=number).build() for number in range(8)}
    content = placed(Portable(), b".rsrc", lambda rva: made.resources(rva, found), made.RESOURCE).build()
    said = read(content).json("pe")
    assert (len(said["children"]), said["is_truncated"]) == (3, True)
    assert said["problems"] == ["files found inside that are not handed out, for there are more than 3: 5"]


@pytest.mark.parametrize("pack", [containers.zipped, containers.seven_zipped, containers.rar, containers.rar5])
def test_a_self_extracting_archive_does_not_stay_shut(
    read: Read, pack: Callable[[dict[str, bytes]], bytes], make_sample: MakeSample, tmp_path: Path
) -> None:
    """What is handed out of the program, `archives` opens as it would in the task that it gets."""
    carried = read(Portable(overlay=pack({"a.txt": b"one"})).build()).content["children/0001"]
    (tmp_path / "unpacked").mkdir()
    emitted = run_plugin(archives.run, make_sample(carried), scratch=tmp_path / "unpacked")
    assert emitted.content["children/0001"] == b"one"
