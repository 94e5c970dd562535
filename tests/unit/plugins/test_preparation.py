"""What the sandbox says of a sample's kind is believed where it is what it may be, and nowhere else."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.plugins.ports import SpooledResult
from services.plugins.preparation import IDENTITY_MAX_BYTES, Kind, kind_of

TRUE = b'{"package": "elf", "platform": "linux", "mime": "application/x-executable", "size_bytes": 3}'


def spooled(tmp_path: Path, *contents: bytes) -> Sequence[SpooledResult]:
    """Results of those contents."""
    found = []
    for number, content in enumerate(contents):
        path = tmp_path / str(number)
        path.write_bytes(content)
        found.append(SpooledResult("identity", "json", "application/json", path, len(content)))
    return found


def test_a_true_word_is_believed(tmp_path: Path) -> None:
    """The control; bytes of no known kind have no platform."""
    assert kind_of(spooled(tmp_path, TRUE)) == Kind(package="elf", platform="linux", mime="application/x-executable")
    nobody = spooled(tmp_path, b'{"package": "generic", "platform": null, "mime": ""}')
    assert kind_of(nobody) == Kind(package="generic", platform=None, mime="")


@pytest.mark.promise("P35", "P37")
@pytest.mark.parametrize(
    "contents",
    [
        (),
        (TRUE, TRUE),
        (b"[]",),
        (b"null",),
        (b'"elf"',),
        (b"{}",),
        (TRUE.replace(b'"elf"', b'["elf"]'),),
        (TRUE.replace(b'"elf"', b'"e\\u0000f"'),),
        (TRUE.replace(b'"elf"', b'"' + b"e" * 40 + b'"'),),
        (TRUE.replace(b'"linux"', b"1"),),
        (TRUE.replace(b"application", b"a\\u0000"),),
        (TRUE.replace(b"application", b"a" * 200),),
        (TRUE + b" " * IDENTITY_MAX_BYTES,),
    ],
)
def test_a_word_that_cannot_be_true_is_none(contents: tuple[bytes, ...], tmp_path: Path) -> None:
    """A sample that took its plugin over gets no further: no result, too many, other types, NUL, too long."""
    assert kind_of(spooled(tmp_path, *contents)) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(content=st.binary(max_size=60), at=st.integers(0, len(TRUE)))
def test_no_bytes_make_it_fail(content: bytes, at: int, tmp_path: Path) -> None:
    """A kind, or none."""
    for said in (content, TRUE[:at] + content + TRUE[at:]):
        assert isinstance(kind_of(spooled(tmp_path, said)), Kind | None)
