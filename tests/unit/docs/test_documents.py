"""Documents name only what exists: files, anchors, verbs, commands, options, messages, dependencies."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.app import app
from contracts.catalogue import BY_TYPE
from deploy.docs.pages import ROOT

FOLDERS = ("contracts", "services", "guest", "malbox", "cli", "deploy", "examples", "tests", "docs")
DOCUMENTS = sorted(
    {
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(path for folder in FOLDERS for path in (ROOT / folder).rglob("README.md")),
    }
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PATH = re.compile(rf"^(?:{'|'.join(FOLDERS)})/[\w./-]*$")
VERB = re.compile(r"\bmake ([a-z]+)\b")
COMMAND = re.compile(r"(?:^|\s|/)malbox ([a-z].*)$")
DECISION_MAX_LINES = 40


def named(path: Path) -> str:
    """A test's id: the document's path."""
    return path.relative_to(ROOT).as_posix()


def code(text: str) -> Iterator[str]:
    """Every line of a block of shell or plain code, and every piece of code inside a sentence."""
    for language, body in FENCE.findall(text):
        if language in ("", "sh"):
            yield from body.splitlines()
    yield from INLINE.findall(FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The names of the document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def verbs() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def fault_of_command(line: str) -> str | None:
    """Why `malbox <line>` is no command line of ours, or None. `…` and words in capitals stand for anything."""
    words = shlex.split(re.split(r"[#|]", line, maxsplit=1)[0])
    command: Any = typer.main.get_command(app)
    while words and getattr(command, "commands", None):
        name = words.pop(0)
        if name not in command.commands:
            return f"there is no command {name!r}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    unknown = [
        word for word in words if word.startswith("-") and word.partition("=")[0] not in options | {"--help", "-"}
    ]
    return f"unknown options {unknown}" if unknown and words != ["…"] else None


def test_there_are_documents_to_look_at() -> None:
    """The search finds the root documents, the pages, the decisions and every service's README."""
    names = {named(path) for path in DOCUMENTS}
    assert {"README.md", "ARCHITECTURE.md", "docs/tutorial.md", "services/machines/README.md"} <= names
    assert sum(name.startswith("docs/decisions/") for name in names) >= 8


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
@pytest.mark.promise("F1")
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    """The file exists, and the heading where one is named."""
    text = path.read_text(encoding="utf-8")
    for link in LINK.findall(FENCE.sub("", text)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), f"{named(path)}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{named(path)}: {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
@pytest.mark.promise("F1")
def test_every_path_that_is_named_exists(path: Path) -> None:
    """A file or folder of the repository in code type is there."""
    text = path.read_text(encoding="utf-8")
    missing = [word for word in INLINE.findall(FENCE.sub("", text)) if PATH.match(word) and not (ROOT / word).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
@pytest.mark.promise("F1")
def test_every_make_verb_that_is_named_exists(path: Path) -> None:
    """`make <verb>` in code is a target of the Makefile."""
    text = path.read_text(encoding="utf-8")
    assert {verb for piece in code(text) for verb in VERB.findall(piece)} - verbs() == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
@pytest.mark.promise("F1")
def test_every_malbox_command_that_is_named_exists(path: Path) -> None:
    """`malbox …` in code is a command with options that it has."""
    text = path.read_text(encoding="utf-8")
    lines = [match[1] for piece in code(text) if (match := COMMAND.search(piece))]
    faults = {line: fault for line in lines if (fault := fault_of_command(line))}
    assert faults == {}


@pytest.mark.parametrize(
    ("line", "is_fine"),
    [
        ("submit sample --wait --timeout 60", True),
        ("artifacts get tsk_… --output evidence", True),
        ("submit sample --forever", False),
        ("explode", False),
        ("task forget tsk_1", False),
    ],
)
def test_the_check_of_commands_tells_ours_from_others(line: str, *, is_fine: bool) -> None:
    """A known command passes; an unknown command, sub-command or option is named."""
    assert (fault_of_command(line) is None) is is_fine


def test_the_first_documents_name_their_commands() -> None:
    """The checks above have something to look at: README and tutorial do name verbs and commands."""
    for name in ("README.md", "docs/tutorial.md"):
        pieces = list(code((ROOT / name).read_text(encoding="utf-8")))
        assert any(VERB.search(piece) for piece in pieces), name
        assert any(COMMAND.search(piece) for piece in pieces), name


def test_the_flow_of_a_task_names_messages_that_exist() -> None:
    """Whatever looks like a message in the drawing of one task is one."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawing = next(body for language, body in FENCE.findall(text) if language == "mermaid")
    known = {kind.__name__ for kind in BY_TYPE.values()}
    said = set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", drawing))
    assert len(said) > 15
    assert said - known == set()


@pytest.mark.parametrize("name", ["requirements.in", "requirements-dev.in"])
def test_every_dependency_has_its_line(name: str) -> None:
    """docs/dependencies.md says of each what it is for."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wanted = {re.split(r"[\[=<>~ ]", line)[0] for line in lines if line and not line.startswith(("#", "-"))}
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    heads = re.findall(r"^- ([^:]+):", page, re.MULTILINE)
    described = {word.strip().split(" ")[0] for head in heads for word in head.split(",")}
    assert wanted - described == set()


def test_decisions_are_numbered_and_short() -> None:
    """Each has a number of its own that its title repeats, and at most forty lines."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [path.name[:4] for path in decisions]
    assert len(set(numbers)) == len(numbers)
    for path in decisions:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert re.match(r"\d{4}-[a-z0-9-]+\.md$", path.name), path.name
        assert lines[0].startswith(f"# {path.name[:4]} "), path.name
        assert len(lines) <= DECISION_MAX_LINES, path.name
