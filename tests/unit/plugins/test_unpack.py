"""One entry comes out of an archive, within budgets, or the submitter learns why not."""

import contextlib
import io
import zipfile
from pathlib import Path

import pytest
import pyzipper
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malbox.sdk import PluginFailure
from malbox.sdk.passwords import CUSTOMARY_PASSWORDS
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.internal.unpack import plugin
from tests.unit.plugins.conftest import MakeSample


def zipped(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def encrypted(password: bytes, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with pyzipper.AESZipFile(buffer, "w", compression=pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES) as archive:
        archive.setpassword(password)
        archive.writestr("inner.sh", content)
    return buffer.getvalue()


def unpacked(sample: Path, scratch: Path, **config: str) -> Emitted:
    return run_plugin(plugin.run, sample, scratch=scratch, config=config)


def test_the_only_file_is_the_sample(make_sample: MakeSample, tmp_path: Path) -> None:
    """Nobody has to name what there is only one of."""
    emitted = unpacked(make_sample(zipped(a=b"hello")), tmp_path)
    assert emitted.content["entry"] == b"hello"
    assert emitted.json("archive")["chosen"] == "a"


def test_the_named_entry_is_the_sample(make_sample: MakeSample, tmp_path: Path) -> None:
    """The request decides which."""
    emitted = unpacked(make_sample(zipped(a=b"one", b=b"two")), tmp_path, entry="b")
    assert emitted.content["entry"] == b"two"
    assert emitted.json("archive")["count"] == 2


def test_a_refusal_names_the_entries(make_sample: MakeSample, tmp_path: Path) -> None:
    """One is named that is not there: the message lists what there is."""
    with pytest.raises(PluginFailure, match="a, b"):
        unpacked(make_sample(zipped(a=b"one", b=b"two")), tmp_path, entry="c")


def test_of_several_files_none_is_the_sample_unless_it_is_named(make_sample: MakeSample, tmp_path: Path) -> None:
    """The listing is all that comes out."""
    emitted = unpacked(make_sample(zipped(a=b"one", b=b"two")), tmp_path)
    assert "entry" not in emitted.content
    assert (emitted.json("archive")["chosen"], emitted.json("archive")["count"]) == ("", 2)


def test_the_list_in_a_refusal_is_bounded(make_sample: MakeSample, tmp_path: Path) -> None:
    """An archive cannot write an essay into a report."""
    many = zipped(**{f"n{number}" * 80: b"" for number in range(100)})
    with pytest.raises(PluginFailure, match="and 80 more") as refusal:
        unpacked(make_sample(many), tmp_path, entry="none")
    assert len(str(refusal.value)) < 20 * 210 + 200


@pytest.mark.parametrize("password", ["secret", *CUSTOMARY_PASSWORDS])
def test_the_right_password_opens_an_aes_archive(password: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """The customary passwords of the field need not be said."""
    given_password = {"password": password} if password == "secret" else {}
    emitted = unpacked(make_sample(encrypted(password.encode(), b"hello")), tmp_path, **given_password)
    assert emitted.content["entry"] == b"hello"


@pytest.mark.parametrize(
    ("password", "config"),
    [(b"secret", {"entry": "inner.sh"}), (b"secret", {"password": "other"}), (b"infected", {"password": "other"})],
)
def test_a_wrong_password_is_called_that(
    password: bytes, config: dict[str, str], make_sample: MakeSample, tmp_path: Path
) -> None:
    """The submitter can tell a wrong password from a broken archive, also where a customary one would have done."""
    with pytest.raises(PluginFailure, match=r"^wrong archive password$"):
        unpacked(make_sample(encrypted(password, b"hello")), tmp_path, **config)


@pytest.mark.parametrize("config", [{}, {"password": "infected"}], ids=["customary", "named"])
def test_a_method_that_nobody_can_undo_is_not_taken_for_a_wrong_password(
    config: dict[str, str], make_sample: MakeSample, tmp_path: Path
) -> None:
    """No other password would help."""
    whole = encrypted(b"infected", b"hello")
    sample = whole.replace(b"\x02\x00AE\x03\x08\x00", b"\x02\x00AE\x03\x09\x00")  # Deflate64
    assert sample != whole
    with pytest.raises(PluginFailure, match=r"^the archive's file cannot be unpacked: compression type 9"):
        unpacked(make_sample(sample), tmp_path, **config)


def test_an_archive_that_no_customary_password_opens_is_listed_as_locked(
    make_sample: MakeSample, tmp_path: Path
) -> None:
    """Nobody named a password or a file, so nobody erred: what the archive says of itself comes out."""
    emitted = unpacked(make_sample(encrypted(b"secret", b"hello")), tmp_path)
    assert "entry" not in emitted.content
    said = emitted.json("archive")
    assert (said["chosen"], said["is_locked"], said["count"]) == ("", True, 1)
    assert not unpacked(make_sample(zipped(a=b"one")), tmp_path).json("archive")["is_locked"]


@pytest.mark.promise("P38")
def test_a_bomb_ends_at_the_budget(make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out is counted while it comes out; with the budget raised the same archive unpacks."""
    bomb = make_sample(zipped(a=bytes(5_000_000)))
    monkeypatch.setattr(plugin, "ENTRY_MAX_BYTES", 1_000_000)
    with pytest.raises(PluginFailure, match="more than 1000000 bytes"):
        unpacked(bomb, tmp_path)
    monkeypatch.setattr(plugin, "ENTRY_MAX_BYTES", 6_000_000)
    assert len(unpacked(bomb, tmp_path).content["entry"]) == 5_000_000


@pytest.mark.promise("P38")
def test_a_name_that_climbs_is_only_a_name(make_sample: MakeSample, tmp_path: Path) -> None:
    """The entry's name never becomes a path of ours."""
    before = set(tmp_path.parent.iterdir())
    emitted = unpacked(make_sample(zipped(**{"../../escaped": b"x"})), tmp_path, entry="../../escaped")
    assert emitted.content["entry"] == b"x"
    assert set(tmp_path.parent.iterdir()) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(position=st.integers(0, 150), value=st.integers(0, 255))
def test_a_damaged_archive_is_a_failure_not_a_crash(
    position: int, value: int, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Any one byte changed: it unpacks, it is taken for one that no password opens, or it says that it cannot."""
    content = bytearray(zipped(a=b"hello hello hello"))
    content[position % len(content)] = value
    with contextlib.suppress(PluginFailure):
        said = unpacked(make_sample(bytes(content)), tmp_path)
        assert ("entry" in said.content) is not said.json("archive")["is_locked"]
