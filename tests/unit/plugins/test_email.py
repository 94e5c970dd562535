"""Who sent a message, who vouches for that, where it leads, and what is attached."""

import contextlib
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from malbox.sdk import PluginFailure, PluginSkipped
from malbox.sdk.testing import Emitted, run_plugin
from services.plugins.builtin.email import plugin, reading
from tests.unit.plugins.conftest import MakeSample
from tests.unit.plugins.mutations import mutations


def mail(
    *attachments: tuple[str, bytes], html: str = "", text: str = "Hello", inner: bytes = b"", **headers: str
) -> bytes:
    """A message from Ann to Bob."""
    made = EmailMessage()
    fields = {"From": "Ann <ann@a.example>", "To": "bob@b.example", "Subject": "Grüße", **headers}
    for name, value in fields.items():
        made[name.replace("_", "-")] = value
    made.set_content(text)
    if html:
        made.add_alternative(html, subtype="html")
    for name, content in attachments:
        made.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    if inner:
        forwarded = EmailMessage()
        forwarded["From"], forwarded["To"] = "c@c.example", "d@d.example"
        forwarded.set_content(inner.decode())
        made.add_attachment(forwarded)
    return made.as_bytes()


def read(sample: Path, scratch: Path) -> Emitted:
    return run_plugin(plugin.run, sample, scratch=scratch)


def traits(said: Any) -> set[str]:
    return {one["name"] for one in said["traits"]}


def test_a_message_is_read(make_sample: MakeSample, tmp_path: Path) -> None:
    """Headers decoded, parts listed, attachments handed out, a forwarded message too."""
    content = mail(
        ("notes.txt", b"hello"), text="see http://c2.example/a", inner=b"inside", Received="from x by y; now"
    )
    emitted = read(make_sample(content), tmp_path)
    said = emitted.json("email")
    assert (said["headers"]["Subject"], said["received"]) == ("Grüße", ["from x by y; now"])
    assert [part["name"] for part in said["parts"] if part["is_attachment"]] == ["notes.txt", "message.eml"]
    assert emitted.content["children/0001"] == b"hello"
    assert b"inside" in emitted.content["children/0002"]
    assert "c2.example" in {one["value"] for one in said["indicators"]}
    assert said["traits"] == []


@pytest.mark.parametrize(
    ("content", "trait"),
    [
        (mail(("a.js", b"x")), "mail_program_attached"),
        (mail(("report", b"MZ")), "mail_program_attached"),
        (mail(("invoice.pdf.exe", b"x")), "name_hides_extension"),
        (mail(("invoice\u202efdp.exe", b"x")), "name_reversed"),
        (mail(Authentication_Results="mx.b.example; spf=pass; dmarc=fail"), "mail_authentication_fails"),
        (mail(From='"boss@b.example" <x@c2.example>'), "mail_sender_deceives"),
        (mail(Reply_To="x@c2.example"), "mail_sender_deceives"),
        (mail(html='<a href="https://c2.example/">www.bank.example</a>'), "link_deceives"),
    ],
)
def test_what_a_message_does_is_a_trait(content: bytes, trait: str, make_sample: MakeSample, tmp_path: Path) -> None:
    """Each in a message that does nothing else."""
    assert trait in traits(read(make_sample(content), tmp_path).json("email"))


@pytest.mark.parametrize(
    "content",
    [
        mail(),
        mail(("notes.docx", b"PK"), html="<p>hello <a href='https://a.example/'>here</a></p>"),
        mail(Authentication_Results="mx.b.example; spf=pass; dkim=pass; dmarc=pass", Reply_To="help@desk.a.example"),
    ],
)
def test_an_ordinary_message_has_no_trait(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Control of the traits."""
    said = read(make_sample(content), tmp_path).json("email")
    assert (said["traits"], said["problems"]) == ([], [])


@pytest.mark.promise("P38")
@pytest.mark.parametrize(
    "content",
    [
        b"From: a@a.example\r\nTo: b@b.example\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(50_000)) + b"\r\n",
        b"From: " + b"a" * 1_000_000 + b"\r\nTo: b\r\n\r\n",
        b"From: =?utf-8?b?" + b"=?utf-8?b?" * 50_000 + b"\r\nTo: b\r\n\r\n",
        b"From: a\r\nTo: b\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n\r\na\r\n" * 20_000,
        b"From: a\r\nTo: b\r\n"
        + b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(2000)),
        b"From: a\r\nTo: b\r\nContent-Type: message/rfc822\r\n\r\n" * 3000,
    ],
    ids=["headers", "a long header", "encoded words", "parts", "depth", "messages"],
)
def test_a_message_without_end_is_cut(content: bytes, make_sample: MakeSample, tmp_path: Path) -> None:
    """Numbers, lengths and depth end at a bound."""
    said = read(make_sample(content), tmp_path).json("email")
    assert len(said["parts"]) <= reading.LISTED_MAX
    assert len(str(said)) < 200_000
    assert not any("processor time" in words for words in said["problems"])


def test_other_files_are_skipped(make_sample: MakeSample, tmp_path: Path) -> None:
    """Not an error: there is nothing to do."""
    for content in (b"hello", b"name: value\nother: value\n\n", b"<html>From: a\nTo: b\n</html>", b"MZ"):
        with pytest.raises(PluginSkipped):
            read(make_sample(content), tmp_path)


def test_a_damaged_message_is_read_as_far_as_it_goes(make_sample: MakeSample, tmp_path: Path) -> None:
    """Cut and flipped in many places."""
    content = mail(("a.exe", b"MZ"), html='<a href="http://c2.example">x</a>', inner=b"inside")
    for damaged in mutations(content, 300, "email"):
        with contextlib.suppress(PluginFailure, PluginSkipped):
            assert len(read(make_sample(damaged), tmp_path).json("email")["parts"]) <= reading.LISTED_MAX
