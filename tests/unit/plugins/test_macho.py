"""The structure of Mach-O files, from files that the tests make, and from damaged ones."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.macho.plugin import run
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.macho_files import ARM64, EXECUTE, READ, WRITE, X86_64, MachO, universal
from tests.unit.plugins.mutations import mutations

Read = Callable[[bytes], Emitted]
SIGNED = MachO(identifier="com.example.quiet", entitlements={"com.example.colour": "blue"}, rpaths=["@loader_path/lib"])


@pytest.fixture
def read(make_sample: MakeSample, tmp_path: Path) -> Read:
    """Call it with bytes for what the plugin emits."""

    def read(content: bytes) -> Emitted:
        return run_plugin(run, make_sample(content), scratch=tmp_path)

    return read


def test_every_part_of_an_image_is_described(read: Read) -> None:
    """What it is for, its segments, what it loads, its functions, its signature."""
    said = read(SIGNED.build()).json("macho")
    [image] = said["architectures"]
    assert (image["architecture"], image["type"], image["platform"]) == ("X86_64", "EXECUTE", "MACOS")
    assert (image["needs_version"], image["built_with"]) == ("11.0.0", "12.3.0")
    assert (image["is_signed"], image["is_encrypted"], image["is_pie"]) == (True, False, True)
    assert image["uuid"] == bytes(range(16)).hex()
    assert [(one["name"], one["rights"]) for one in said["segments"]] == [
        ("__TEXT", "r-x"),
        ("__TEXT,__text", ""),
        ("__LINKEDIT", "r--"),
    ]
    assert [(one["name"], one["version"]) for one in said["libraries"]] == [
        ("/usr/lib/libSystem.B.dylib", "1.2.3"),
        ("@loader_path/lib", None),
    ]
    assert {one["way"]: one["names"] for one in said["functions"]} == {"in": ["_printf"], "out": ["_start_here"]}
    [signature] = said["signatures"]
    assert (signature["identifier"], signature["team"]) == ("com.example.quiet", "TEAM123456")
    assert (signature["flags"], signature["is_signed_with_certificate"]) == (["ad hoc"], False)
    assert [(one["name"], one["value"]) for one in said["entitlements"]] == [("com.example.colour", "blue")]
    assert (said["traits"], said["problems"], said["is_truncated"]) == ([], [], False)


def test_a_universal_file_has_a_row_of_each_architecture(read: Read) -> None:
    """What only one of them has is told apart."""
    said = read(universal((X86_64, MachO().build()), (ARM64, MachO(cpu=ARM64, is_encrypted=True).build()))).json(
        "macho"
    )
    assert [(one["architecture"], one["is_encrypted"]) for one in said["architectures"]] == [
        ("X86_64", False),
        ("ARM64", True),
    ]
    assert {one["architecture"] for one in said["segments"]} == {"X86_64", "ARM64"}


REMARKABLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "code to write": ("writable_code", lambda: MachO(rights=READ | WRITE | EXECUTE).build()),
    "random code": (
        "packed",
        lambda: MachO(code=random.Random(1).randbytes(65536)).build(),  # noqa: S311 - chosen to be repeated
    ),
    "the mark of UPX": ("packed", lambda: MachO(code=b"UPX!" + bytes(60)).build()),
    "a library to write to": ("loads_from_writable_places", lambda: MachO(libraries=["/tmp/evil.dylib"]).build()),
    "a relative path": ("loads_from_writable_places", lambda: MachO(rpaths=["lib"]).build()),
    "an entitlement to load": (
        "lets_others_load_code",
        lambda: MachO(identifier="a", entitlements={"com.apple.security.cs.disable-library-validation": True}).build(),
    ),
}


@pytest.mark.parametrize("name", REMARKABLE)
def test_what_is_remarkable_is_a_trait(read: Read, name: str) -> None:
    """Each for itself."""
    trait, make = REMARKABLE[name]
    assert {one["name"] for one in read(make()).json("macho")["traits"]} == {trait}


def test_an_entitlement_that_is_refused_is_no_trait(read: Read) -> None:
    """False is not true."""
    content = MachO(identifier="a", entitlements={"com.apple.security.get-task-allow": False}).build()
    assert read(content).json("macho")["traits"] == []


def test_entitlements_that_cannot_be_read_are_a_problem_and_cost_nothing_else(read: Read) -> None:
    """Neither XML that is cut nor entities, which could grow without end."""
    broken = SIGNED.build().replace(b"</plist>", b"</plisX>")
    said = read(broken).json("macho")
    assert said["entitlements"] == []
    assert len(said["problems"]) == 1
    assert said["signatures"][0]["identifier"] == "com.example.quiet"
    entity = SIGNED.build().replace(b"<!DOCTYPE plist PUBLIC", b"<!DOCTYPE a [<!ENTITY b 'c'>]><!--")
    assert read(entity).json("macho")["problems"]


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(60)])
def test_other_files_are_skipped(read: Read, content: bytes) -> None:
    """Not an error: there is nothing to do. A Java class begins like a universal file."""
    with pytest.raises(PluginSkipped):
        read(content)


def test_a_ruin_fails_in_words(read: Read) -> None:
    """The analyst reads that the file is corrupted."""
    with pytest.raises(PluginFailure, match="corrupted Mach-O"):
        read(b"\xca\xfe\xba\xbe\0\0\0\x02" + bytes(10))


@pytest.mark.parametrize("kind", ["one", "universal"])
def test_a_damaged_image_is_described_or_refused(read: Read, kind: str) -> None:
    """Cut off, bits flipped, bytes overwritten: bounded output or a refusal in words."""
    content = SIGNED.build()
    sample = content if kind == "one" else universal((X86_64, content), (ARM64, MachO(cpu=ARM64).build()))
    for damaged in mutations(sample, 200, kind):
        with contextlib.suppress(PluginSkipped, PluginFailure):
            assert len(read(damaged).content["macho"]) < 200_000


def test_damaged_load_commands_are_described_or_refused(read: Read) -> None:
    """Most damage hits bytes that nobody reads; this hits the headers only."""
    sample = SIGNED.build()
    for damaged in mutations(sample[:1500], 200, "commands"):
        with contextlib.suppress(PluginSkipped, PluginFailure):
            assert len(read(damaged + sample[1500:]).content["macho"]) < 200_000
