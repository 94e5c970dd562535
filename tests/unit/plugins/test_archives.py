"""What is packed comes out, within budgets, and nothing is written under a name from inside."""

import contextlib
import gzip
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.archives import plugin, rars, visit
from services.plugins.builtin.archives.budget import Budget
from tests.unit.plugins import containers as made
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations

MIB = 1024 * 1024
SMALL = partial(
    Budget,
    total_bytes=16 * MIB, file_bytes=8 * MIB, entries=2000, children=60, depth=6, ratio=250, ratio_floor_bytes=2 * MIB,
)  # fmt: skip
SCALE = made.Scale(entries=2500, file_bytes=24 * MIB)
TWO = {"first.txt": b"one", "folder/second.txt": b"two"}
WHOLE: dict[str, Callable[[], bytes]] = {
    "zip": lambda: made.zipped(TWO),
    "zip, AES": lambda: made.zipped_aes(TWO, "infected"),
    "zip, encrypted as in the old days": lambda: made.zipped_classically(TWO, "infected"),
    "rar": lambda: made.rar(TWO),
    "rar5": lambda: made.rar5(TWO),
    "7z": lambda: made.seven_zipped(TWO),
    "7z, encrypted": lambda: made.seven_zipped(TWO, "infected"),
    "7z, its names encrypted too": lambda: made.seven_zipped(TWO, "infected", is_header_encrypted=True),
    "tar": lambda: made.tarred(TWO),
    "tar.gz": lambda: made.tarred(TWO, "w:gz"),
    "tar.bz2": lambda: made.tarred(TWO, "w:bz2"),
    "tar.xz": lambda: made.tarred(TWO, "w:xz"),
    "tar.lz4": lambda: made.written(TWO, "gnutar", "lz4"),
    "tar.zst": lambda: made.written(TWO, "gnutar", "zstd"),
    "cpio": lambda: made.written(TWO, "cpio_newc"),
    "iso": lambda: made.written(TWO, "iso9660"),
    "ar": lambda: made.written({"a": b"one", "b": b"two"}, "ar_bsd"),
}


def unpacked(sample: Path, scratch: Path, **config: object) -> Emitted:
    scratch.mkdir(exist_ok=True)
    return run_plugin(plugin.run, sample, scratch=scratch, config=config)


@pytest.mark.parametrize("kind", WHOLE)
def test_every_kind_of_archive_is_opened(kind: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """What was packed comes out, each file under a name of ours, with the name of the archive beside it."""
    emitted = unpacked(make_sample(WHOLE[kind]()), tmp_path / "scratch")
    said = emitted.json("archives")
    assert {emitted.content[child["name"]] for child in said["children"]} == {b"one", b"two"}
    assert said["problems"] == []
    assert said["exceeded"] == []
    assert said["archives"][0]["is_encrypted"] == ("AES" in kind or "encrypted" in kind)
    assert said["archives"][0]["password"] == ("infected" if said["archives"][0]["is_encrypted"] else None)


def test_a_cabinet_is_opened(make_sample: MakeSample, tmp_path: Path) -> None:
    """The installers' format."""
    emitted = unpacked(make_sample(made.cabinet("setup.txt", b"hello")), tmp_path / "scratch")
    [child] = emitted.json("archives")["children"]
    assert (child["path"], child["from"], child["size_bytes"]) == ("sample > setup.txt", "cab", 5)
    assert emitted.content["children/0001"] == b"hello"


def test_what_compress_packed_comes_out(make_sample: MakeSample, tmp_path: Path) -> None:
    """`.Z`, with phrases that are longer than a letter."""
    content = b"hello hello hello, aaaaaaaa"
    emitted = unpacked(make_sample(made.compressed(content)), tmp_path / "scratch")
    assert (emitted.json("archives")["archives"][0]["format"], emitted.content["children/0001"]) == (
        "compress",
        content,
    )


@pytest.mark.parametrize("pack", [made.rar, made.rar5])
def test_an_encrypted_rar_stays_shut_and_says_so(
    pack: Callable[..., bytes], make_sample: MakeSample, tmp_path: Path
) -> None:
    """No library that is free and kept opens one; what is stored in it is not taken for what was encrypted."""
    said = unpacked(make_sample(pack(TWO, is_encrypted=True)), tmp_path / "scratch").json("archives")
    assert (said["children"], said["archives"][0]["is_encrypted"]) == ([], True)
    assert "archive_encrypted" in {trait["name"] for trait in said["traits"]}
    assert [words.rpartition(": ")[2] for words in said["problems"]] == [
        f"encrypted {said['archives'][0]['format']} archives cannot be opened"
    ] * 2


@pytest.mark.parametrize("pack", [made.rar, made.rar5])
def test_what_an_encrypted_rar_says_is_bounded_and_never_a_crash(
    pack: Callable[..., bytes], make_sample: MakeSample, tmp_path: Path
) -> None:
    """Cut and flipped in many places."""
    for damaged in mutations(pack(TWO, is_encrypted=True), 200, "rar"):
        with contextlib.suppress(PluginFailure, PluginSkipped):
            assert len(unpacked(make_sample(damaged), tmp_path / "scratch").json("archives")["children"]) <= 2


@pytest.mark.promise("P38")
@pytest.mark.parametrize("pack", [made.zipped, made.tarred, made.seven_zipped])
def test_what_came_out_before_the_time_was_over_is_handed_out(
    pack: Callable[[made.Files], bytes], make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing hides before an entry that takes for ever, in whatever container that is."""
    write = visit.Spool.write

    def endless(spool: visit.Spool, chunk: bytes) -> None:
        while chunk == b"slow":
            pass
        write(spool, chunk)

    monkeypatch.setattr(visit.Spool, "write", endless)
    monkeypatch.setattr(plugin, "PROCESSOR_S", 0.5)
    inner = pack({"found": b"quick", "second": b"slow"})
    sample = make_sample(made.zipped({"before": b"one", "inner": inner, "after": b"two"}))
    said = unpacked(sample, tmp_path / "scratch").json("archives")
    found = [child["path"].removeprefix("sample > ") for child in said["children"]]
    assert found == ["before", "inner > found", "after"]
    assert [one["budget"] for one in said["exceeded"]] == ["seconds"]
    assert said["problems"] == ["sample > inner: the time was over before its end"]


def test_a_number_longer_than_any_ends_what_is_known_of_a_rar(tmp_path: Path) -> None:
    """Nobody counts seven bits in each of two million bytes: the square of that takes the whole run's time."""
    archive = made.rar5(TWO, is_encrypted=True)
    signature = archive[:8]
    (tmp_path / "whole").write_bytes(archive)
    (tmp_path / "long").write_bytes(signature + bytes(4) + bytes([13]) + b"\xff" * 10 + bytes(3) + archive[8:])
    assert [sorted(rars.encrypted(tmp_path / name)) for name in ("whole", "long")] == [[0, 1], []]


def test_a_file_of_endless_records_is_not_believed_and_nothing_behind_the_end_is_read(tmp_path: Path) -> None:
    """A million records to a header would take the whole run's time, and so would what is no archive any more."""
    plain, encrypted = made.rar5(TWO), made.rar5(TWO, is_encrypted=True)
    header = b"\x02\x01\xfa\x01" + b"\x01\x05" * 125  # a file whose extra area of 250 bytes holds records
    endless = plain[:8] + bytes(4) + b"\xfe\x01" + header + plain[8:]
    found = []
    for content in (endless, plain + encrypted[8:]):
        (tmp_path / "archive").write_bytes(content)
        found.append(sorted(rars.encrypted(tmp_path / "archive")))
    assert found == [[0], []]


LOCKED: dict[str, Callable[[], bytes]] = {
    "rar": lambda: made.rar(TWO, is_encrypted=True),
    "rar5": lambda: made.rar5(TWO, is_encrypted=True),
    "zip": lambda: made.zipped_aes(TWO, "own"),
    "7z": lambda: made.seven_zipped(TWO, "own"),
}


@pytest.mark.parametrize("kind", LOCKED)
def test_an_archive_inside_that_gives_nothing_is_handed_out_itself(
    kind: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    """It is opened by whoever has the password; without it, its bytes are all there is."""
    locked = LOCKED[kind]()
    emitted = unpacked(make_sample(made.zipped({"inner": locked, "note.txt": b"password: own"})), tmp_path / "scratch")
    assert [child["path"] for child in emitted.json("archives")["children"]] == ["sample > inner", "sample > note.txt"]
    assert emitted.content["children/0001"] == locked


def test_what_is_packed_twice_comes_out(make_sample: MakeSample, tmp_path: Path) -> None:
    """Containers inside are opened; the path shows the way, and what was opened is no child."""
    sample = made.tarred({"inner.zip": made.zipped({"deep.7z": made.seven_zipped({"a.exe": b"MZ..."})})}, "w:xz")
    said = unpacked(make_sample(sample), tmp_path / "scratch").json("archives")
    assert [child["path"] for child in said["children"]] == ["sample > inner.zip > deep.7z > a.exe"]
    assert [archive["format"] for archive in said["archives"]] == ["xz", "zip", "7z"]


def test_a_document_is_a_child_and_not_opened(make_sample: MakeSample, tmp_path: Path) -> None:
    """A ZIP that is a document is for other plugins; alone it is skipped."""
    document = made.zipped({"[Content_Types].xml": b"<Types/>", "word/document.xml": b"<w/>"})
    said = unpacked(make_sample(made.zipped({"letter.docx": document})), tmp_path / "scratch").json("archives")
    assert [child["path"] for child in said["children"]] == ["sample > letter.docx"]
    with pytest.raises(PluginSkipped, match="document"):
        unpacked(make_sample(document), tmp_path / "scratch")


@pytest.mark.parametrize("config", [{"password": "own"}, {"passwords": ["no", "own"]}])
@pytest.mark.parametrize("pack", [made.zipped_aes, made.zipped_classically, made.seven_zipped])
def test_the_submissions_password_opens_it(
    pack: Callable[[made.Files, str], bytes], config: dict[str, object], make_sample: MakeSample, tmp_path: Path
) -> None:
    """A given password is tried; without it the archive stays shut, which is said."""
    sample = make_sample(pack({"a": b"one", "b": b"two"}, "own"))
    assert len(unpacked(sample, tmp_path / "scratch", **config).json("archives")["children"]) == 2
    said = unpacked(sample, tmp_path / "scratch").json("archives")
    assert said["children"] == []
    assert "none of 7 passwords" in said["problems"][0]
    assert "archive_encrypted" in {trait["name"] for trait in said["traits"]}


@pytest.mark.promise("P38")
@pytest.mark.parametrize(
    ("pack", "unpacked_files"),
    [
        (lambda: made.seven_zipped_for_giants({"a": b"one"}, "infected"), []),
        (lambda: made.zipped_for_giants("giant", {"a": b"one"}), [b"one"]),
    ],
    ids=["7z", "zip"],
)
def test_too_little_memory_is_not_taken_for_a_wrong_password(
    pack: Callable[[], bytes], unpacked_files: list[bytes], make_sample: MakeSample, tmp_path: Path
) -> None:
    """What is beyond the plugin's memory is said, and costs only itself."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (2048 * MIB, limits[1]))
    try:
        emitted = unpacked(make_sample(made.zipped({"whole": b"1", "giant": pack()})), tmp_path / "scratch")
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
    said = emitted.json("archives")
    assert any("more memory than a plugin may use" in problem for problem in said["problems"])
    assert not any("password" in problem for problem in said["problems"])
    assert {b"1", *unpacked_files} <= {emitted.content[child["name"]] for child in said["children"]}


def test_an_unknown_method_is_not_taken_for_a_wrong_password(make_sample: MakeSample, tmp_path: Path) -> None:
    """An encrypted entry that was packed in a way nobody can undo here says so."""
    whole = made.zipped_aes({"a": b"one"}, "infected")
    sample = whole.replace(b"\x02\x00AE\x03\x08\x00", b"\x02\x00AE\x03\x09\x00")  # Deflate64
    assert sample != whole
    said = unpacked(make_sample(sample), tmp_path / "scratch").json("archives")
    assert said["problems"]
    assert not any("password" in problem for problem in said["problems"])


def test_the_same_file_is_handed_out_once(make_sample: MakeSample, tmp_path: Path) -> None:
    """Repetition is counted, not repeated."""
    said = unpacked(make_sample(made.zipped({"a": b"x", "b": b"x", "c": b"x"})), tmp_path / "scratch").json("archives")
    assert (len(said["children"]), said["repeated_files"]) == (1, 2)


@pytest.mark.parametrize(
    ("name", "trait"),
    [
        ("../../x", "name_climbs_out"),
        ("/etc/x", "name_climbs_out"),
        ("C:\\x", "name_climbs_out"),
        ("invoice.pdf.exe", "name_hides_extension"),
        ("invoice.pdf" + " " * 40 + ".scr", "name_hides_extension"),
        ("invoice\u202efdp.exe", "name_reversed"),
    ],
)
def test_a_name_that_deceives_is_a_trait(name: str, trait: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """The name is shown and judged, and the same file under a plain name has no trait."""
    said = unpacked(make_sample(made.zipped({name: b"x"})), tmp_path / "scratch").json("archives")
    assert [one["name"] for one in said["traits"]] == [trait]
    plain = unpacked(make_sample(made.zipped({"notes.txt": b"x"})), tmp_path / "scratch").json("archives")
    assert plain["traits"] == []


@pytest.mark.promise("P38")
@pytest.mark.parametrize("name", made.BOMBS)
def test_a_bomb_meets_its_budget(
    name: str, make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends, says which bound was met, and neither the scratch directory nor the output is over its bounds."""
    monkeypatch.setattr(plugin, "Budget", SMALL)
    make, budget = made.BOMBS[name]
    scratch = tmp_path / "scratch"
    emitted = unpacked(make_sample(make(SCALE)), scratch)
    said = emitted.json("archives")
    assert budget in {one["budget"] for one in said["exceeded"]}, said
    assert len(said["children"]) <= 60
    files = [content for result, content in emitted.content.items() if result.startswith("children/")]
    assert sum(map(len, files)) <= 16 * MIB
    assert sum(path.stat().st_size for path in scratch.iterdir()) <= 16 * MIB
    assert all(path.name.isdigit() for path in scratch.iterdir())


@pytest.mark.promise("P38")
@pytest.mark.parametrize("name", made.LIARS)
def test_a_liar_is_read_as_far_as_it_is_true(name: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """What is stated allocates nothing and writes nowhere: the result or the failure is small and in words."""
    before = set(tmp_path.parent.iterdir())
    with contextlib.suppress(PluginFailure):
        emitted = unpacked(make_sample(made.LIARS[name]()), tmp_path / "scratch")
        assert sum(map(len, emitted.content.values())) < 64 * 1024
    assert set(tmp_path.parent.iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"sample", "scratch"}


@pytest.mark.promise("P38")
def test_thirty_bombs_are_tried() -> None:
    """The promise names the number."""
    assert len(made.BOMBS) >= 30


@pytest.mark.promise("P38")
def test_without_the_bound_a_bomb_unpacks(make_sample: MakeSample, tmp_path: Path) -> None:
    """Control of the bombs: under bounds that allow them, zeros come out whole; the bound is what stops them."""
    said = unpacked(make_sample(gzip.compress(bytes(4 * MIB))), tmp_path / "scratch").json("archives")
    assert (said["exceeded"], said["children"][0]["size_bytes"]) == ([], 4 * MIB)


def test_other_files_are_skipped(make_sample: MakeSample, tmp_path: Path) -> None:
    """There is nothing to open."""
    with pytest.raises(PluginSkipped):
        unpacked(make_sample(b"\x7fELF"), tmp_path / "scratch")


@pytest.mark.parametrize("kind", WHOLE)
def test_a_damaged_archive_is_a_failure_or_a_part_never_a_crash(
    kind: str, make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut and flipped in many places: it unpacks, in part, or says in words that it cannot."""
    monkeypatch.setattr(plugin, "Budget", SMALL)
    rounds = 12 if "encrypted" in kind else 200  # deriving a 7z key takes half a million hashes
    for damaged in mutations(WHOLE[kind](), rounds, kind):
        with contextlib.suppress(PluginFailure, PluginSkipped):
            said = unpacked(make_sample(damaged), tmp_path / "scratch").json("archives")
            assert len(said["children"]) <= 60
