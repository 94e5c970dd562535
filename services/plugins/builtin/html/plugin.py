"""Reads a page without showing it, and runs none of it."""

import re

from malbox.sdk import Context, PluginSkipped
from malbox.sdk.cpu_budget import cpu_budget

from .page import Page

PROCESSOR_S = 40.0
SAMPLE_MAX_BYTES = 16 * 1024 * 1024
HEAD_BYTES = 4096
_BEGINS = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|script|iframe|meta|title|form|svg|hta:application|table|div|center|a)\b",
    re.IGNORECASE,
)
_OTHER = re.compile(rb"\s*(?:MZ|PK|%PDF|\{\\rt|\xd0\xcf|(?:From|Received|Return-Path|MIME-Version|Delivered-To)[: ])")


def run(context: Context) -> None:
    """The result `html` and the files in the page `children/…`, its scripts too, are emitted."""
    with context.sample.open("rb") as stream:
        content = stream.read(SAMPLE_MAX_BYTES)
        rest = stream.read(1)
    head = content[:HEAD_BYTES].replace(b"\0", b"")
    if _OTHER.match(head) or not _BEGINS.search(head):
        raise PluginSkipped("not a web page")
    page = Page()
    if rest:
        page.findings.problem(f"only the first {SAMPLE_MAX_BYTES} bytes were read")
    with cpu_budget(PROCESSOR_S) as time:
        page.read(content)
    if time.is_spent:
        page.findings.problem(f"reading ended after {PROCESSOR_S:.0f} s of processor time")
    page.scripts.hand_out(page.children)
    context.emit_json("html", page.as_json())
    page.children.emit(context)
