"""Reads the text in the sample's bytes. Everything is counted: bytes read, characters searched, texts and hits kept."""

from dataclasses import dataclass, field
from typing import Any

from malbox.sdk import Context
from malbox.sdk.findings import Findings, printable

from .extract import Piece, Text, pieces, texts
from .patterns import Hit, search

MIB = 1024 * 1024
READ_MAX_BYTES = 64 * MIB
SEARCHED_MAX_CHARS = 16 * MIB
LIST_MAX_BYTES = 8 * MIB
TEXTS_SHOWN_MAX = 500
TEXT_SHOWN_MAX_CHARS = 200
LINE_MAX_CHARS = 2000
HITS_OF_A_KIND_MAX = 250
VALUE_MAX_CHARS = 2000
CONTEXT_CHARS = 40
ONION = ".onion"


def run(context: Context) -> None:
    """The results `strings` and `list` are emitted."""
    with context.sample.open("rb") as stream:
        content = stream.read(READ_MAX_BYTES)
        is_longer = bool(stream.read(1))
    reading = Reading()
    for text in texts(content):
        reading.add(text)
    if is_longer:
        reading.problem(f"only the first {READ_MAX_BYTES // MIB} MiB were read")
    context.emit_json("strings", reading.result())
    context.emit_bytes("list", b"".join(reading.lines), "text/plain")


@dataclass
class Reading:
    """What was found so far."""

    lines: list[bytes] = field(default_factory=list)
    _list_bytes: int = 0
    _searched: int = 0
    _counts: dict[str, int] = field(default_factory=lambda: {"ascii": 0, "utf-16": 0})
    _shown: list[dict[str, Any]] = field(default_factory=list)
    _hits: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _hits_of_kind: dict[str, int] = field(default_factory=dict)
    _findings: Findings = field(default_factory=Findings)

    def add(self, text: Text) -> None:
        """The text counts, is listed and searched, as far as the bounds allow."""
        self._counts[text.encoding] += 1
        self._list(text)
        if len(self._shown) < TEXTS_SHOWN_MAX:
            shown = printable(text.text, TEXT_SHOWN_MAX_CHARS)
            self._shown.append({"offset": text.offset, "encoding": text.encoding, "text": shown})
        for piece in pieces(text):
            if self._searched >= SEARCHED_MAX_CHARS:
                self.problem(f"only the first {SEARCHED_MAX_CHARS // MIB} Mi characters were searched for indicators")
                return
            self._searched += len(piece.characters)
            for hit in search(piece.characters):
                self._keep(piece, hit)

    def problem(self, words: str) -> None:
        """Something was left out."""
        self._findings.problem(words)
        self._findings.truncated()

    def result(self) -> dict[str, Any]:
        """The JSON result."""
        return {
            "counts": {**self._counts, "indicators": len(self._hits)},
            "strings": self._shown,
            **self._findings.as_json(),
            "indicators": list(self._hits.values()),
        }

    def _list(self, text: Text) -> None:
        line = f"{text.offset:08x} {text.encoding[0]} {text.text[:LINE_MAX_CHARS]}\n".encode("ascii")
        if self._list_bytes + len(line) > LIST_MAX_BYTES:
            self.problem(f"the list of strings ends after {LIST_MAX_BYTES // MIB} MiB")
            return
        self._list_bytes += len(line)
        self.lines.append(line)

    def _keep(self, piece: Piece, hit: Hit) -> None:
        is_half = (piece.is_cut_before and hit.start == 0) or (piece.is_cut_after and hit.end == len(piece.characters))
        key = (hit.kind, printable(hit.value, VALUE_MAX_CHARS))
        if is_half or key in self._hits:
            return
        if self._hits_of_kind.get(hit.kind, 0) >= HITS_OF_A_KIND_MAX:
            self._findings.truncated()
            return
        self._hits_of_kind[hit.kind] = self._hits_of_kind.get(hit.kind, 0) + 1
        around = piece.characters[max(0, hit.start - CONTEXT_CHARS) : hit.end + CONTEXT_CHARS]
        self._hits[key] = {
            "kind": hit.kind,
            "value": key[1],
            "context": printable(around),
            "offset": piece.text.at(piece.start + hit.start),
            "encoding": piece.text.encoding,
        }
        if hit.kind == "domain" and hit.value.endswith(ONION):
            self._findings.trait("names_an_onion_service", hit.value)
        elif hit.kind == "wallet":
            self._findings.trait("names_a_wallet", hit.value)
