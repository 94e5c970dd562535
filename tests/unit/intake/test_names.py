"""The client's file name is a label: safe to show, and nothing more."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.domain.names import NAME_MAX_BYTES, ORIGINAL_MAX_CHARS, escaped_original, safe_name


@pytest.mark.promise("G5", "P49")
@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"invoice.exe", "invoice.exe"),
        (b"../../etc/passwd", "passwd"),
        (b"C:\\Users\\me\\dropper.dll", "dropper.dll"),
        (b"a\r\nSet-Cookie: x=1.exe", "a__Set-Cookie_ x=1.exe"),
        (b'"; rm -rf $HOME; ".sh', "__ rm -rf _HOME_ _.sh"),
        (b"\xff\xfe\x00bad.bin", "___bad.bin"),
        ("photo\u202egpj.exe".encode(), "photo_gpj.exe"),
        (b"-rf", "_rf"),
        (b"....", "sample"),
        (b"", "sample"),
        (b"dir/", "dir"),
    ],
)
def test_a_hostile_name_is_shown_harmlessly(sent: bytes, shown: str) -> None:
    """Paths, quotes, line breaks, direction overrides and bytes that are no text do not survive."""
    assert safe_name(sent) == shown


@pytest.mark.promise("P49")
@given(st.binary(max_size=4096))
def test_every_name_is_short_printable_and_not_a_path(sent: bytes) -> None:
    """Whatever the bytes, the name is non-empty, bounded, printable and one path component."""
    name = safe_name(sent)
    assert 0 < len(name.encode()) <= NAME_MAX_BYTES
    assert not any(character in name for character in "/\\\"'\r\n\0<>")
    assert all(unicodedata.category(character)[0] != "C" for character in name)
    assert name not in {".", ".."}


def test_a_name_of_4_kib_is_cut_and_keeps_its_extension() -> None:
    """What the file is stays visible when the name is too long."""
    name = safe_name(b"a" * 4096 + b".docm")
    assert name.endswith(".docm")
    assert len(name.encode()) == NAME_MAX_BYTES


@given(st.binary(max_size=8192))
def test_the_original_is_kept_only_as_bounded_printable_ascii(sent: bytes) -> None:
    """The record of what was sent cannot break a log, a terminal or a page."""
    kept = escaped_original(sent)
    assert len(kept) <= ORIGINAL_MAX_CHARS
    assert kept.isascii()
    assert kept.isprintable()
