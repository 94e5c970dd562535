"""What is known of the document so far, each list bounded."""

from dataclasses import dataclass, field
from typing import Any

from malbox.sdk.children import Children
from malbox.sdk.file_names import is_program
from malbox.sdk.findings import Findings, printable

PARTS_MAX = 500
MACROS_MAX = 60
CODE_MAX_CHARS = 200_000
CODE_TOTAL_MAX_CHARS = 2_000_000
KEYWORDS_MAX = 300
RELATIONSHIPS_MAX = 300
FIELDS_MAX = 100
OBJECTS_MAX = 100


@dataclass
class Document:
    """Filled by the readers."""

    format: str
    findings: Findings = field(default_factory=Findings)
    is_encrypted: bool = False
    password: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)
    macros: list[dict[str, Any]] = field(default_factory=list)
    keywords: list[dict[str, str]] = field(default_factory=list)
    relationships: list[dict[str, str]] = field(default_factory=list)
    fields: list[dict[str, str]] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)
    children: Children = field(init=False)
    _code_chars: int = 0

    def __post_init__(self) -> None:
        self.children = Children(self.findings)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all could be read."""
        return not (self.parts or self.macros or self.objects or self.is_encrypted)

    def part(self, name: str, size_bytes: int) -> None:
        """A stream of a compound file, or a part of a package."""
        self.findings.add_to(self.parts, PARTS_MAX, {"name": printable(name, 200), "size_bytes": size_bytes})

    def macro(self, module: str, stream: str, code: str) -> None:
        """The source of one module, cut to a bound."""
        room = min(CODE_MAX_CHARS, CODE_TOTAL_MAX_CHARS - self._code_chars)
        if len(code) > room:
            self.findings.truncated()
        self._code_chars += min(len(code), room)
        entry = {
            "module": printable(module, 200),
            "stream": printable(stream, 200),
            "lines": code.count("\n") + 1,
            "code": _lines(code[:room]),
        }
        self.findings.add_to(self.macros, MACROS_MAX, entry)

    def keyword(self, kind: str, keyword: str, description: str) -> None:
        """Something in the macros that olevba knows."""
        entry = {"kind": kind, "keyword": printable(keyword), "description": printable(description)}
        self.findings.add_to(self.keywords, KEYWORDS_MAX, entry)

    def relationship(self, part: str, kind: str, target: str) -> None:
        """Something that is elsewhere."""
        entry = {"part": printable(part, 200), "kind": kind, "target": printable(target, 1000)}
        self.findings.add_to(self.relationships, RELATIONSHIPS_MAX, entry)

    def field_found(self, part: str, instruction: str) -> None:
        """A field that starts something. The instruction is its trait's evidence."""
        self.findings.add_to(self.fields, FIELDS_MAX, {"part": printable(part, 200), "field": printable(instruction)})
        self.findings.trait("dde_field", f"{part}: {instruction}")

    def embedded(self, part: str, kind: str, content: bytes, *, name: str = "", path: str = "") -> None:
        """An object or file inside. A program among them is a trait."""
        entry = {
            "part": printable(part, 200),
            "kind": kind,
            "name": printable(name, 200),
            "path": printable(path),
            "size_bytes": len(content),
        }
        self.findings.add_to(self.objects, OBJECTS_MAX, entry)
        if is_program(name, content):
            self.findings.trait("embedded_program", f"{part}: {name or kind}")
        self.children.add(f"{part} > {name}" if name else part, kind, content)

    def as_json(self) -> dict[str, Any]:
        """The result."""
        return {
            "format": self.format,
            "is_encrypted": self.is_encrypted,
            "password": self.password,
            "metadata": self.metadata,
            "parts": self.parts,
            "macros": self.macros,
            "keywords": self.keywords,
            "relationships": self.relationships,
            "fields": self.fields,
            "objects": self.objects,
            "children": self.children.as_json(),
            **self.findings.as_json(),
        }


def _lines(code: str) -> str:
    """Source as it came, without what a terminal or a reader would act on."""
    return "\n".join(printable(line.expandtabs(4), len(line) * 4 + 1) for line in code.splitlines())
