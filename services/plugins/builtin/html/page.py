"""One page: its elements of interest, each list bounded."""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from lxml import etree
from lxml import html as parsing

from malbox.sdk.children import Children
from malbox.sdk.embedded_scripts import EmbeddedScripts, suffix_of
from malbox.sdk.findings import Findings, host_of, printable
from malbox.sdk.links import deceives

ELEMENTS_MAX = 200_000
LISTED_MAX = 200
SCRIPT_SHOWN_MAX_CHARS = 20_000
BLOB_MIN_CHARS = 400
BLOBS_MAX = 50
_HIDDEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|(?:width|height)\s*:\s*[01](?:px)?\s*(?:;|\Z)", re.IGNORECASE
)
_BUILDS = re.compile(
    r"new\s+(?:blob|file)\s*\(|createobjecturl|mssaveoropenblob|mssaveblob|\bsaveas\s*\(", re.IGNORECASE
)
_UNPACKS = re.compile(r"\batob\s*\(|uint8array|fromcharcode|charcodeat|base64", re.IGNORECASE)
_HANDS_OVER = re.compile(
    r"\.download\s*=|mssave|\bsaveas\s*\(|['\"]download['\"]|\.click\s*\(\s*\)|location\s*=", re.IGNORECASE
)
_BLOB = re.compile(rf"[A-Za-z0-9+/]{{{BLOB_MIN_CHARS},}}={{0,2}}")
_DATA_URI = re.compile(r"data:([\w.+-]{1,60}/[\w.+-]{1,80})?((?:;[\w=.+-]{1,60}){0,4}),", re.IGNORECASE)
_REFRESH = re.compile(r"url\s*=\s*['\"]?([^'\"]{1,2000})", re.IGNORECASE)
_HARMLESS = ("image/", "font/", "application/font", "application/x-font", "text/css", "audio/", "video/")


class Page:
    """Filled by `read`."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.children = Children(self.findings)
        self.scripts = EmbeddedScripts(self.findings)
        self._title = ""
        self._scripts: list[dict[str, Any]] = []
        self._forms: list[dict[str, Any]] = []
        self._frames: list[dict[str, Any]] = []
        self._links: list[dict[str, str]] = []
        self._redirects: list[str] = []
        self._hands_over = False

    def read(self, content: bytes) -> None:
        """Every element was looked at, and every script."""
        try:
            root = parsing.document_fromstring(content, parser=parsing.HTMLParser(huge_tree=False, no_network=True))
        except (etree.LxmlError, ValueError, AssertionError) as error:
            self.findings.problem(f"page: {type(error).__name__}: {error}")
            return
        self._hands_over = bool(root.xpath("//a[@download]"))
        for number, element in enumerate(root.iter(etree.Element)):
            if number >= ELEMENTS_MAX:
                self.findings.truncated()
                break
            self._element(element)

    def as_json(self) -> dict[str, Any]:
        """The result."""
        return {
            "title": self._title,
            "scripts": self._scripts,
            "forms": self._forms,
            "frames": self._frames,
            "links": self._links,
            "redirects": self._redirects,
            "children": self.children.as_json(),
            **self.findings.as_json(),
        }

    def _element(self, element: Any) -> None:
        tag = str(element.tag).rpartition("}")[2].lower()
        match tag:
            case "title":
                self._title = self._title or printable("".join(element.itertext()), 200)
            case "script":
                suffix = suffix_of(element.get("language") or element.get("type") or "")
                self._script("script", element.get("src") or "", "".join(element.itertext()), suffix)
            case "form":
                self._form(element)
            case "iframe" | "frame" | "embed" | "object":
                self._frame(element)
            case "a" | "area":
                self._link(element.get("href") or "", "".join(element.itertext()))
            case "meta":
                self._meta(element)
        for name, value in list(element.attrib.items())[:50]:
            self._attribute(str(name).lower(), value)

    def _script(self, where: str, source: str, text: str, suffix: str | None) -> None:
        if source:
            self._url(source, "source of a script")
        entry = {
            "where": where,
            "source": printable(source, 500),
            "size_chars": len(text),
            "text": "\n".join(printable(line, 2000) for line in text[:SCRIPT_SHOWN_MAX_CHARS].splitlines()),
        }
        self.findings.add_to(self._scripts, LISTED_MAX, entry)
        self.findings.urls(text, where)
        if suffix is not None:
            self.scripts.add(suffix, text)
        blobs = list(self._blobs(text))
        is_built = _BUILDS.search(text) is not None
        if is_built and (blobs or _UNPACKS.search(text)) and (self._hands_over or _HANDS_OVER.search(text)):
            self.findings.trait("html_smuggling", f"{where}: {len(blobs)} files in base64, {len(text)} characters")

    def _blobs(self, text: str) -> Iterator[bytes]:
        """What is long enough in base64 to be a file; a child each."""
        for match, _ in zip(_BLOB.finditer(text), range(BLOBS_MAX), strict=False):
            content = _base64(match[0])
            if content:
                self.children.add(f"base64 at character {match.start()} of a script", "script", content)
                yield content

    def _form(self, form: Any) -> None:
        action = form.get("action") or ""
        asks = any((field.get("type") or "").lower() == "password" for field in form.iter("input"))
        entry = {"action": printable(action, 500), "method": (form.get("method") or "get")[:10], "asks_password": asks}
        self.findings.add_to(self._forms, LISTED_MAX, entry)
        self._url(action, "action of a form")
        if asks and host_of(action)[0]:
            self.findings.trait("html_asks_password", f"sent to {action}")

    def _frame(self, element: Any) -> None:
        source = element.get("src") or element.get("data") or ""
        sizes = {(element.get(name) or "").strip().removesuffix("px") for name in ("width", "height")}
        is_hidden = bool(
            sizes & {"0", "1"} or _HIDDEN.search(element.get("style") or "") or element.get("hidden") is not None
        )
        self.findings.add_to(self._frames, LISTED_MAX, {"source": printable(source, 500), "is_hidden": is_hidden})
        self._url(source, "source of a frame")
        if is_hidden and host_of(source)[0]:
            self.findings.trait("html_hidden_frame", source)

    def _link(self, target: str, text: str) -> None:
        shown = " ".join(text.split())
        self.findings.add_to(self._links, LISTED_MAX, {"target": printable(target, 500), "text": printable(shown, 100)})
        self._url(target, "link")
        if deceives(shown, target):
            self.findings.trait("link_deceives", f"{shown} leads to {target}")

    def _meta(self, element: Any) -> None:
        if (element.get("http-equiv") or "").lower() != "refresh":
            return
        match = _REFRESH.search(element.get("content") or "")
        if match:
            self.findings.add_to(self._redirects, LISTED_MAX, printable(match[1], 500))
            self._url(match[1], "redirect")

    def _attribute(self, name: str, value: str) -> None:
        if name.startswith("on") and value.strip():
            self._script(f"attribute {name[:30]}", "", value, "js")
        if name in ("href", "src", "data", "action", "srcdoc", "xlink:href") or name.endswith("}href"):
            self._data_uri(value)
            scheme = value.lstrip().partition(":")[0].lower()
            if scheme in ("javascript", "vbscript"):
                self._script(f"attribute {name[:30]}", "", value, suffix_of(scheme))

    def _data_uri(self, value: str) -> None:
        match = _DATA_URI.match(value.lstrip())
        if match is None:
            return
        kind = (match[1] or "text/plain").lower()
        packed = value.lstrip()[match.end() :]
        content = _base64(re.sub(r"\s", "", packed)) if "base64" in match[2].lower() else unquote_to_bytes(packed)
        if not kind.startswith(_HARMLESS) or kind == "image/svg+xml":
            self.children.add(f"data URI of {kind}", "data URI", content)

    def _url(self, value: str, context: str) -> None:
        if value.strip().startswith("//"):
            value = "http:" + value.strip()
        self.findings.urls(value, context)


def _base64(text: str) -> bytes:
    """The bytes, or none where the text is not base64."""
    plain = text.rstrip("=")
    plain = plain[: len(plain) - (len(plain) % 4 == 1)]
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
