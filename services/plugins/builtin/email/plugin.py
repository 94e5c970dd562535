"""Reads a message in the form of the Internet (RFC 5322, MIME), with the standard library."""

import re

from malbox.sdk import Context, PluginSkipped
from malbox.sdk.cpu_budget import cpu_budget

from .message import Reading

PROCESSOR_S = 40.0
SAMPLE_MAX_BYTES = 64 * 1024 * 1024
HEAD_BYTES = 2 * 1024 * 1024  # a header is as long as its sender likes
HEADERS_MIN = 2
_FIRST = re.compile(rb"(?:From [^\r\n]{1,200}\r?\n)?[A-Za-z][A-Za-z0-9-]{1,60}:[ \t]?\S?")
_KNOWN = re.compile(
    rb"^(from|to|subject|date|received|message-id|mime-version|return-path|delivered-to|reply-to|content-type):",
    re.IGNORECASE | re.MULTILINE,
)


def run(context: Context) -> None:
    """The result `email` and the attachments `children/…` are emitted."""
    with context.sample.open("rb") as stream:
        content = stream.read(SAMPLE_MAX_BYTES)
        rest = stream.read(1)
    head = content[:HEAD_BYTES].lstrip(b"\r\n\t \xef\xbb\xbf")
    known = {match[1].lower() for match in _KNOWN.finditer(re.split(rb"\r?\n\r?\n", head)[0])}
    if not _FIRST.match(head) or len(known) < HEADERS_MIN:
        raise PluginSkipped("not an e-mail")
    reading = Reading()
    if rest:
        reading.findings.problem(f"only the first {SAMPLE_MAX_BYTES} bytes were read")
    with cpu_budget(PROCESSOR_S) as time:
        reading.read(content.lstrip(b"\r\n\t \xef\xbb\xbf"))
    if time.is_spent:
        reading.findings.problem(f"reading ended after {PROCESSOR_S:.0f} s of processor time")
    context.emit_json("email", reading.as_json())
    reading.children.emit(context)
