"""A message in the form of the Internet (RFC 5322, MIME), with the standard library."""

import email
from email import policy
from email.message import Message

from .reading import TEXT_MAX_BYTES, Reading, decoded

PARTS_MAX = 300


def read(content: bytes, reading: Reading) -> None:
    """Headers and every part were looked at."""
    try:
        message = email.message_from_bytes(content, policy=policy.compat32)
        reading.head(message)
        _walk(message, reading)
    except Exception as error:  # noqa: BLE001 - the parser meets damaged messages with whatever comes
        reading.findings.problem(f"message: {type(error).__name__}: {error}")


def _walk(message: Message, reading: Reading) -> None:
    waiting, number = [message], 0
    while waiting:
        part = waiting.pop(0)
        number += 1
        if number > PARTS_MAX:
            reading.findings.truncated()
            return
        inside = part.get_payload()
        if part.get_content_type() == "message/rfc822" and isinstance(inside, list):
            forwarded = b"".join(one.as_bytes() for one in inside[:1] if isinstance(one, Message))
            reading.attached(part.get_content_type(), "message.eml", forwarded)
        elif isinstance(inside, list):
            waiting.extend(one for one in inside[:PARTS_MAX] if isinstance(one, Message))
        else:
            _part(part, reading)


def _part(part: Message, reading: Reading) -> None:
    name = decoded(part.get_filename() or "")
    payload = part.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else b""
    kind = part.get_content_type()
    if name or part.get_content_disposition() == "attachment" or not kind.startswith("text/"):
        reading.attached(kind, name, content)
    else:
        reading.body(kind, content[:TEXT_MAX_BYTES].decode(_charset(part), "replace"), len(content))


def _charset(part: Message) -> str:
    """The charset of the part, if Python has it as a text encoding."""
    name = part.get_content_charset() or "utf-8"
    try:
        b"".decode(name)
    except (LookupError, ValueError):
        return "latin-1"
    return name
