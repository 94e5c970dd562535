"""How a sample is run: words of a list, never a line for a shell."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malbox.sdk.manifest import load_manifest
from services.plugins.policy.packages import command_line, guest_name, obstacle

ELF = Path(__file__).parents[3] / "services/plugins/builtin/elf"


@pytest.mark.promise("A2")
@pytest.mark.parametrize(
    ("package", "argv"),
    [
        ("elf", ("/w/x", "-a", "b c")),
        ("generic", ("/w/x", "-a", "b c")),
        ("shell", ("/bin/sh", "/w/x", "-a", "b c")),
        ("python", ("/usr/bin/python3", "/w/x", "-a", "b c")),
    ],
)
def test_the_package_decides_the_interpreter(package: str, argv: tuple[str, ...]) -> None:
    """Arguments follow as they were given, each a word."""
    assert command_line(package, "/w/x", ("-a", "b c")) == argv


@pytest.mark.promise("G5")
@given(st.text(max_size=300))
def test_any_name_becomes_a_safe_one(name: str) -> None:
    """No separator, no option, no hidden file, never empty."""
    safe = guest_name(name)
    assert 1 <= len(safe) <= 100
    assert not set(safe) & set("/\\ \n;$`'\"")
    assert not safe.startswith((".", "-"))


def test_an_ordinary_name_stays() -> None:
    """A reader recognises the sample in the process list."""
    assert guest_name("invoice_2026.sh") == "invoice_2026.sh"
    assert guest_name("../../etc/passwd") == "passwd"


def test_a_plugin_says_for_what_it_is() -> None:
    """The reason names both sides."""
    manifest = load_manifest(ELF)
    assert obstacle(manifest, "elf", "linux") is None
    assert obstacle(manifest, "shell", "linux") == "it is for elf, archive; this is shell"
    assert obstacle(manifest, "elf", "windows") == "it is for linux; this is for windows"


def test_a_plugin_for_some_media_types_passes_the_others_by() -> None:
    """What the bytes are decides, not what they are called; where it is not known nothing is passed by."""
    manifest = load_manifest(ELF)
    applies = manifest.applies.model_copy(update={"mime": ("application/pdf", "image/*")})
    pictures = manifest.model_copy(update={"applies": applies})
    assert obstacle(pictures, "elf", "linux", "image/png") is None
    assert obstacle(pictures, "elf", "linux", "") is None
    assert obstacle(pictures, "elf", "linux", "text/plain") == "it is for application/pdf, image/*; this is text/plain"
