"""What a download answers."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.results.downloads import (
    RangeNotSatisfiable,
    Span,
    disposition,
    etag,
    has_same_bytes,
    safe_name,
    span_of,
)
from tests.unit.results.cases import result

pytestmark = pytest.mark.promise("E1")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=5-", Span(5, 10)),
        ("bytes=-3", Span(7, 10)),
        ("bytes=-300", Span(0, 10)),
        ("bytes=2-400", Span(2, 10)),
        (None, None),
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=0-1,4-5", None),
        ("lines=0-1", None),
        ("bytes=" + "9" * 400 + "-", None),
    ],
)
def test_one_range_is_understood_and_anything_else_is_the_whole(header: str | None, expected: Span | None) -> None:
    """RFC 9110 lets a server ignore a range that it does not understand."""
    assert span_of(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_outside_of_the_bytes_is_refused(header: str) -> None:
    """There is nothing to send."""
    with pytest.raises(RangeNotSatisfiable):
        span_of(header, 10)


@given(st.text(max_size=40) | st.from_regex(r"bytes=\d*-\d*", fullmatch=True), st.integers(0, 10**12))
def test_a_range_always_lies_inside_of_the_bytes(header: str, size_bytes: int) -> None:
    """No header makes the service read past the end."""
    try:
        span = span_of(header, size_bytes)
    except RangeNotSatisfiable:
        return
    assert span is None or 0 <= span.start < span.end <= size_bytes


@given(st.text(max_size=300))
@pytest.mark.promise("P41")
def test_a_name_from_a_guest_is_harmless_in_a_header_and_in_a_directory(path: str) -> None:
    """No quote, separator, control or direction mark, no leading dot, never empty."""
    name = safe_name(replace(result(1, "syscalls"), path=path, name=path))
    header = disposition(name)
    assert name
    assert not name.startswith(".")
    assert not set(name) & set('/\\"\r\n\0;%:|<>*?\u202e')
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2


def test_a_name_keeps_its_meaning() -> None:
    """An ordinary name stays as it is, in both forms that RFC 6266 knows."""
    name = safe_name(replace(result(1, "syscalls"), path="/tmp/déjà vu.sh"))
    assert name == "déjà_vu.sh"
    assert disposition(name) == "attachment; filename=\"d_j__vu.sh\"; filename*=UTF-8''d%C3%A9j%C3%A0_vu.sh"


def test_an_entity_tag_is_recognised() -> None:
    """A client that has the bytes is told so."""
    tag = etag("ab" * 32)
    assert has_same_bytes(f'"x", W/{tag}', "ab" * 32)
    assert has_same_bytes("*", "ab" * 32)
    assert not has_same_bytes('"x"', "ab" * 32)
    assert not has_same_bytes(None, "ab" * 32)
