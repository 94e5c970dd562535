"""Reads a message: in the form of the Internet (RFC 5322, MIME), or as Outlook saves it ([MS-OXMSG])."""

import re

from malbox.sdk import Context, PluginSkipped
from malbox.sdk.cpu_budget import cpu_budget

from . import message, outlook
from .reading import Reading

PROCESSOR_S = 40.0
SAMPLE_MAX_BYTES = 64 * 1024 * 1024
HEAD_BYTES = 2 * 1024 * 1024  # a header is as long as its sender likes
HEADERS_MIN = 2
_BEFORE = b"\r\n\t \xef\xbb\xbf"
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
    is_outlook = outlook.may_be_message(content)
    if not is_outlook and not _is_message(content):
        raise PluginSkipped("not an e-mail")
    reading = Reading()
    with cpu_budget(PROCESSOR_S) as time:
        if is_outlook:
            if not outlook.read(context.sample, reading):
                raise PluginSkipped("a document, not an e-mail")
        else:
            message.read(content.lstrip(_BEFORE), reading)
            if rest:
                reading.findings.problem(f"only the first {SAMPLE_MAX_BYTES} bytes were read")
    if time.is_spent:
        reading.findings.problem(f"reading ended after {PROCESSOR_S:.0f} s of processor time")
    context.emit_json("email", reading.as_json())
    reading.children.emit(context)


def _is_message(content: bytes) -> bool:
    """Whether it begins as headers do, with some that messages have."""
    head = content[:HEAD_BYTES].lstrip(_BEFORE)
    known = {match[1].lower() for match in _KNOWN.finditer(re.split(rb"\r?\n\r?\n", head)[0])}
    return _FIRST.match(head) is not None and len(known) >= HEADERS_MIN
