"""The text in bytes, and what of it is worth looking for elsewhere."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.strings import plugin
from services.plugins.builtin.strings.extract import OVERLAP_CHARS, PIECE_CHARS
from services.plugins.builtin.strings.plugin import run
from services.plugins.builtin.strings.wallets import BASE58
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations

ONION = "a2" * 28 + ".onion"


def bitcoin_address(key: bytes) -> str:
    """A well-formed address that nobody has the key of."""
    content = b"\0" + hashlib.sha256(key).digest()[:20]
    content += hashlib.sha256(hashlib.sha256(content).digest()).digest()[:4]
    number, digits = int.from_bytes(content, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return "1" + digits


WALLET = bitcoin_address(b"harmless")
BECH32 = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"  # the example of BIP-173


@pytest.fixture
def read(make_sample: MakeSample, tmp_path: Path) -> Any:
    """Call it with bytes for what the plugin emits."""

    def read(content: bytes) -> Emitted:
        return run_plugin(run, make_sample(content), scratch=tmp_path)

    return read


def found(read: Any, text: str) -> list[tuple[str, str]]:
    """The indicators in a file that has the text somewhere in its middle."""
    said = read(b"\x7fELF\0\0\1\2" + text.encode() + b"\0\xff\0").json("strings")
    return [(one["kind"], one["value"]) for one in said["indicators"]]


def test_texts_are_listed_with_their_places_and_encodings(read: Any) -> None:
    """ASCII and UTF-16; what is shorter than six characters is none."""
    content = b"\0\1first text\0short\0\xff" + "second text".encode("utf-16-le") + b"\0\0"
    emitted = read(content)
    said = emitted.json("strings")
    assert said["strings"] == [
        {"offset": 2, "encoding": "ascii", "text": "first text"},
        {"offset": content.index(b"s\0e"), "encoding": "utf-16", "text": "second text"},
    ]
    assert said["counts"] == {"ascii": 1, "utf-16": 1, "indicators": 0}
    assert emitted.content["list"] == b"00000002 a first text\n00000014 u second text\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("get http://c2.evil-host.com:8080/a?b=1 now", ("url", "http://c2.evil-host.com:8080/a?b=1")),
        ("get http://c2.evil-host.io/a.", ("domain", "c2.evil-host.io")),
        ("see http://192.0.2.7/x", ("ipv4", "192.0.2.7")),
        ("see http://[2001:db8::7]:80/x", ("ipv6", "2001:db8::7")),
        ("hxxps://bad[.]example-host[.]com/a", ("url", "https://bad.example-host.com/a")),
        ("host=evil-host.com;", ("domain", "evil-host.com")),
        ("EVIL-HOST.RU says", ("domain", "evil-host.ru")),
        ("pool.evil-host.co.uk:443", ("domain", "pool.evil-host.co.uk")),
        ("connect 198.51.100.4:4444", ("ipv4", "198.51.100.4")),
        ("via 2001:db8:0:1::15 only", ("ipv6", "2001:db8:0:1::15")),
        ("pay to someone@evil-host.xyz.", ("email", "someone@evil-host.xyz")),
        (
            "HKEY_CURRENT_USER\\Software\\Example\\Run",
            ("registry", "HKEY_CURRENT_USER\\Software\\Example\\Run"),
        ),
        (
            "Software\\Microsoft\\Windows\\CurrentVersion\\Run",
            ("registry", "Software\\Microsoft\\Windows\\CurrentVersion\\Run"),
        ),
        (
            "C:\\Users\\dev\\implant\\x64\\Release\\implant.pdb",
            ("path", "C:\\Users\\dev\\implant\\x64\\Release\\implant.pdb"),
        ),
        ("%APPDATA%\\svc.exe", ("path", "%APPDATA%\\svc.exe")),
        ("touch /tmp/.hidden/x", ("path", "/tmp/.hidden/x")),
        ("Global\\only-one-of-me", ("mutex", "Global\\only-one-of-me")),
        (f"send to {WALLET} today", ("wallet", WALLET)),
        (f"send to {BECH32} today", ("wallet", BECH32)),
        (
            "0x52908400098527886E0F7030069857D2E4169EE7 is ether",
            ("wallet", "0x52908400098527886E0F7030069857D2E4169EE7"),
        ),
        (f"http://{ONION}/pay", ("domain", ONION)),
    ],
)
def test_what_can_be_looked_for_is_found(read: Any, text: str, expected: tuple[str, str]) -> None:
    """Each kind, also in forms that were made harmless for a reader."""
    assert expected in found(read, text)
    wide = read(b"\1\2" + text.encode("utf-16-le") + b"\3\4").json("strings")["indicators"]
    assert expected in [(one["kind"], one["value"]) for one in wide]


@pytest.mark.parametrize(
    "text",
    [
        "libc.so.6 and README.md and a.out",
        "System.IO.Compression.ZipFile",
        "self.stream = os.path.join(a.b)",
        "std::vector<abc::def> dead::beef",
        "Version 6.0.14.3 of 10.0.19041.1",
        "assembly version 4.2.1.7",
        "127.0.0.1 and 0.0.0.0 and 255.255.255.255 and 999.1.1.1",
        "1.2.840.113549.1.7.2",
        "not-a-domain.invalidsuffix and user@localhost",
        WALLET[:-1] + ("2" if WALLET[-1] != "2" else "3"),
        BECH32[:-1] + "q",
        "0x" + "0" * 40,
        "http:// and //",
        "00:11:22:33:44:55 at 12:30:59",
    ],
)
def test_what_only_looks_like_it_is_not(read: Any, text: str) -> None:
    """Files, versions, identifiers of programs, and addresses whose check sum is wrong."""
    assert found(read, text) == []


def test_an_indicator_has_its_place_and_what_stands_around_it(read: Any) -> None:
    """Each once, where it stands first."""
    content = b"\0\0" + b"GET http://a.evil-host.com/x HTTP/1.1\0\0" * 3
    said = read(content).json("strings")["indicators"]
    assert [one["kind"] for one in said] == ["url", "domain"]
    assert (said[0]["offset"], said[0]["encoding"]) == (content.index(b"http"), "ascii")
    assert said[0]["context"] == "GET http://a.evil-host.com/x HTTP/1.1"


@pytest.mark.parametrize("at", [0, PIECE_CHARS - OVERLAP_CHARS - 5, PIECE_CHARS - 5, 2 * PIECE_CHARS - OVERLAP_CHARS])
def test_nothing_is_lost_where_a_long_text_is_cut(read: Any, at: int) -> None:
    """Megabytes without a break are searched in pieces; no value is found in half."""
    content = b"x " * (at // 2) + b"http://a.evil-host.com/path-to-it" + b" y" * PIECE_CHARS
    values = [one["value"] for one in read(content).json("strings")["indicators"]]
    assert values == ["http://a.evil-host.com/path-to-it", "a.evil-host.com"]


@pytest.mark.parametrize(("text", "trait"), [(f"pay {WALLET}", "names_a_wallet"), (ONION, "names_an_onion_service")])
def test_where_ransom_is_paid_is_a_trait(read: Any, text: str, trait: str) -> None:
    """The report counts it; an ordinary address is none."""
    assert [one["name"] for one in read(text.encode()).json("strings")["traits"]] == [trait]
    assert read(b"http://www.gnu.org/software").json("strings")["traits"] == []


def test_more_than_the_bounds_is_left_out_and_said(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes read, characters searched, lines listed and hits kept."""
    monkeypatch.setattr(plugin, "READ_MAX_BYTES", 60_000)
    monkeypatch.setattr(plugin, "SEARCHED_MAX_CHARS", 20_000)
    monkeypatch.setattr(plugin, "LIST_MAX_BYTES", 30_000)
    emitted = read(b"".join(b"http://192.0.2.7/%d\0" % number for number in range(5000)))
    said = emitted.json("strings")
    assert said["is_truncated"]
    assert len(said["problems"]) == 3
    assert len(said["strings"]) == plugin.TEXTS_SHOWN_MAX
    assert len(emitted.content["list"]) <= 30_000
    assert sum(one["kind"] == "url" for one in said["indicators"]) == plugin.HITS_OF_A_KIND_MAX


@pytest.mark.parametrize(
    "unit",
    [
        b"a.",
        b"a-",
        b"1.",
        b"a:",
        b"://",
        b"@a",
        b"\\a",
        b"C:\\a\\",
        b"/tmp/",
        b"%a%",
        b"bc1q",
        b"http://a.com/",
        b"[.]",
    ],
)
def test_no_text_makes_a_pattern_run_away(read: Any, unit: bytes) -> None:
    """What repeats what a pattern looks for is searched in time that grows with its length only."""
    said = read(unit * (300_000 // len(unit))).json("strings")
    assert said["counts"]["ascii"] == 1


def test_damaged_bytes_are_only_other_bytes(read: Any) -> None:
    """Whatever the content, the bounds hold and JSON comes out."""
    content = f"\0http://a.evil-host.com/x\0C:\\a\\b\0{WALLET}\0".encode() + "wide text".encode("utf-16-le")
    for damaged in mutations(content, 200, "strings"):
        said = read(damaged).json("strings")
        assert len(said["strings"]) <= 10
