"""What is known of the document so far, each list bounded."""

from dataclasses import dataclass, field
from typing import Any

from malbox.sdk.children import Children
from malbox.sdk.embedded_scripts import EmbeddedScripts
from malbox.sdk.file_names import is_program
from malbox.sdk.findings import Findings, printable

ACTIONS_MAX = 500
SCRIPTS_MAX = 60
SCRIPT_SHOWN_MAX_CHARS = 20_000
FILES_MAX = 200
_REACHES = frozenset({"SubmitForm", "GoToR", "GoToE", "ImportData"})


@dataclass
class Document:
    """Filled by the readers."""

    findings: Findings = field(default_factory=Findings)
    version: str = ""
    header_offset: int = 0
    revisions: int = 0
    trailing_bytes: int = 0
    is_encrypted: bool = False
    password: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    actions: list[dict[str, Any]] = field(default_factory=list)
    scripts: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    children: Children = field(init=False)
    embedded: EmbeddedScripts = field(init=False)

    def __post_init__(self) -> None:
        self.children = Children(self.findings)
        self.embedded = EmbeddedScripts(self.findings)

    @property
    def is_empty(self) -> bool:
        """Whether no object could be read at all."""
        return not self.counts.get("objects") and not self.is_encrypted

    def count(self, what: str) -> None:
        """One more of these."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def action(self, number: int, kind: str, trigger: str, target: str) -> None:
        """Something that the document does, by itself or on a click."""
        entry = {"object": number, "kind": kind, "trigger": trigger, "target": printable(target, 1000)}
        if entry in self.actions:
            return
        self.findings.add_to(self.actions, ACTIONS_MAX, entry)
        where = f"object {number}{', ' + trigger if trigger else ''}"
        if kind == "Launch":
            self.findings.trait("pdf_launch", f"{where}: {target}")
        if kind in _REACHES:
            self.findings.trait("pdf_reaches_out", f"{where}: {kind} {target}")
        self.findings.urls(target, f"{kind} of object {number}")

    def script(self, number: int, trigger: str, text: str) -> None:
        """A script, and whether it runs when the document is opened."""
        self.embedded.add("js", text)
        if any(one["text"] == text[:SCRIPT_SHOWN_MAX_CHARS] and one["trigger"] == trigger for one in self.scripts):
            return
        entry = {
            "object": number,
            "trigger": trigger,
            "size_chars": len(text),
            "text": "\n".join(printable(line, 2000) for line in text[:SCRIPT_SHOWN_MAX_CHARS].splitlines()),
        }
        self.findings.add_to(self.scripts, SCRIPTS_MAX, entry)
        name = "pdf_script_on_open" if trigger and trigger != "click" else "pdf_script"
        self.findings.trait(name, f"object {number}{', ' + trigger if trigger else ''}: {text[:100]}")
        self.findings.urls(text, f"script of object {number}")

    def file(self, number: int, name: str, content: bytes) -> None:
        """An embedded file."""
        self.findings.add_to(
            self.files, FILES_MAX, {"object": number, "name": printable(name, 200), "size_bytes": len(content)}
        )
        if is_program(name, content):
            self.findings.trait("embedded_program", f"object {number}: {name}")
        self.children.add(f"object {number} > {name}", "pdf", content)

    def as_json(self) -> dict[str, Any]:
        """The result."""
        return {
            "version": self.version,
            "header_offset": self.header_offset,
            "revisions": self.revisions,
            "trailing_bytes": self.trailing_bytes,
            "is_encrypted": self.is_encrypted,
            "password": self.password,
            "metadata": self.metadata,
            "counts": self.counts,
            "actions": self.actions,
            "scripts": self.scripts,
            "files": self.files,
            "children": self.children.as_json(),
            **self.findings.as_json(),
        }
