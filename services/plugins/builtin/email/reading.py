"""What is said of one message: who it says it is from, who vouches for that, where its links lead, what is attached."""

import email.errors
import email.header
import email.utils
import re
from email.message import Message
from html.parser import HTMLParser
from typing import Any

from malbox.sdk.children import Children
from malbox.sdk.file_names import is_program, note_name
from malbox.sdk.findings import Findings, printable
from malbox.sdk.links import deceives

LISTED_MAX = 200
TEXT_MAX_BYTES = 4 * 1024 * 1024  # of a body, which whoever reads the message cuts it to
RECEIVED_MAX = 30
HEADER_MAX_CHARS = 2000
_HEADERS = ("From", "Sender", "To", "Cc", "Reply-To", "Return-Path", "Subject", "Date", "Message-ID", "X-Mailer",
            "User-Agent", "X-Originating-IP")  # fmt: skip
_AUTHENTICATION = re.compile(r"\b(spf|dkim|dmarc|arc)\s*=\s*(\w{1,20})", re.IGNORECASE)
_FAILING = frozenset({"fail", "softfail", "hardfail"})
_ADDRESS = re.compile(r"[\w.+-]{1,64}@((?:[\w-]{1,63}\.){1,6}[A-Za-z]{2,24})")


class Reading:
    """Filled by who reads the message: its headers once, then each body and each attachment."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.children = Children(self.findings)
        self._headers: dict[str, str] = {}
        self._received: list[str] = []
        self._authentication: list[dict[str, str]] = []
        self._parts: list[dict[str, Any]] = []
        self._links: list[dict[str, str]] = []

    def as_json(self) -> dict[str, Any]:
        """The result."""
        return {
            "headers": self._headers,
            "received": self._received,
            "authentication": self._authentication,
            "parts": self._parts,
            "links": self._links,
            "children": self.children.as_json(),
            **self.findings.as_json(),
        }

    def head(self, message: Message) -> None:
        """The headers were looked at; the message's parts were not."""
        for name in _HEADERS:
            value = message.get(name)
            if value is not None:
                self._headers[name] = printable(decoded(value), 500)
        self._received = [printable(str(value), 300) for value in (message.get_all("Received") or [])[:RECEIVED_MAX]]
        for value in (message.get_all("Authentication-Results") or [])[:10]:
            for method, result in _AUTHENTICATION.findall(str(value)[:HEADER_MAX_CHARS]):
                self._authentication.append({"method": method.lower(), "result": result.lower()})
        failing = sorted(
            {f"{one['method']}={one['result']}" for one in self._authentication if one["result"] in _FAILING}
        )
        if failing:
            self.findings.trait("mail_authentication_fails", ", ".join(failing))
        self._sender()

    def _sender(self) -> None:
        """The name that is shown, the address, and where an answer would go."""
        shown, address = email.utils.parseaddr(self._headers.get("From", ""))
        domain = _domain(address)
        if domain:
            self.findings.indicator("email", address, "From")
        named = _ADDRESS.search(shown)
        if named is not None and domain and not _is_alike(named[1], domain):
            self.findings.trait("mail_sender_deceives", f"the name {shown} is shown for {address}")
        _, reply = email.utils.parseaddr(self._headers.get("Reply-To", ""))
        if reply and domain and not _is_alike(_domain(reply), domain):
            self.findings.trait("mail_sender_deceives", f"from {address}, answers to {reply}")
            self.findings.indicator("email", reply, "Reply-To")

    def body(self, kind: str, text: str, size_bytes: int) -> None:
        """What is shown to the reader, of that media type. `size_bytes`: before it was cut."""
        if size_bytes > TEXT_MAX_BYTES:
            self.findings.truncated()
        self.findings.add_to(
            self._parts, LISTED_MAX, {"type": kind, "name": "", "size_bytes": size_bytes, "is_attachment": False}
        )
        self.findings.urls(text, f"body, {kind}")
        if kind == "text/html":
            self._html(text)

    def attached(self, kind: str, name: str, content: bytes) -> None:
        """A file that comes with the message, under the name that is shown."""
        entry: dict[str, Any] = {
            "type": printable(kind, 100),
            "name": printable(name, 200),
            "size_bytes": len(content),
            "is_attachment": True,
        }
        self.findings.add_to(self._parts, LISTED_MAX, entry)
        note_name(name, self.findings)
        if is_program(name, content):
            self.findings.trait("mail_program_attached", name or entry["type"])
        self.children.add(name or "an attachment without a name", "email", content)

    def _html(self, text: str) -> None:
        reader = _Links()
        try:
            reader.feed(text)
        except (AssertionError, ValueError) as error:
            self.findings.problem(f"body, text/html: {error}")
        for target, words in reader.links:
            shown = " ".join(words.split())
            self.findings.add_to(
                self._links, LISTED_MAX, {"target": printable(target, 500), "text": printable(shown, 100)}
            )
            self.findings.urls(target, "link")
            if deceives(shown, target):
                self.findings.trait("link_deceives", f"{shown} leads to {target}")


class _Links(HTMLParser):
    """Targets and texts of links."""

    MAX = 500
    TEXT_MAX_CHARS = 500

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[tuple[str, str]] = []
        self._target: str | None = None
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._target, self._text = dict(attrs).get("href") or "", ""

    def handle_data(self, data: str) -> None:
        if self._target is not None and len(self._text) < self.TEXT_MAX_CHARS:
            self._text += data[: self.TEXT_MAX_CHARS]

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._target is not None and len(self.links) < self.MAX:
            self.links.append((self._target, self._text))
            self._target = None


def decoded(value: object) -> str:
    """A header with its encoded words decoded."""
    text = str(value)[:HEADER_MAX_CHARS]
    try:
        pieces = email.header.decode_header(text)
    except (email.errors.HeaderParseError, ValueError):
        return text
    words = []
    for piece, charset in pieces:
        words.append(piece if isinstance(piece, str) else _bytes_decoded(piece, charset or "ascii"))
    return "".join(words)


def _bytes_decoded(content: bytes, charset: str) -> str:
    try:
        return content.decode(charset, "replace")
    except LookupError:
        return content.decode("latin-1")


def _domain(address: str) -> str:
    return address.rpartition("@")[2].lower().rstrip(".")


def _is_alike(one: str, other: str) -> bool:
    """Whether one is the other, or below it."""
    one, other = one.lower(), other.lower()
    return one == other or one.endswith("." + other) or other.endswith("." + one)
