"""Documents that are generated say what the code says."""

import json
import re
from pathlib import Path

import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from contracts.catalogue import BY_TYPE, FACTS
from contracts.envelope import Envelope
from deploy.docs import http_page, pages, readmes
from deploy.docs.conversation import handlers, heard_by, hears, said_in, says
from deploy.docs.lifecycles import MACHINE, TASK, said_by
from deploy.local.routes import API, ROUTES
from deploy.local.state import SERVICES
from services.scheduler.domain.task import Task
from tests.contracts.examples import AT, EXAMPLES

REFERENCE = pages.ROOT / pages.REFERENCE
COMMAND = "run `make docs`"
SILENT: set[str] = set()


@pytest.mark.promise("F1")
@pytest.mark.promise("P52")
def test_every_generated_document_is_what_the_code_says() -> None:
    """What stands in the repository is what the generator would write; `make docs` brings it up to date."""
    assert pages.outdated(pages.ROOT) == [], COMMAND


def test_the_generator_repairs_what_was_edited_and_removes_what_nobody_knows(tmp_path: Path) -> None:
    """A changed page is written again, the schema of a message that is no more goes, and a second run finds nothing."""
    assert set(pages.documents(tmp_path)) == set(pages.write(tmp_path))
    (tmp_path / "docs" / "lifecycles.md").write_text("edited", encoding="utf-8")
    (tmp_path / pages.SCHEMAS / "malbox.task.forgotten.v1.json").write_text("{}", encoding="utf-8")
    assert pages.outdated(tmp_path) == ["docs/lifecycles.md", f"{pages.SCHEMAS}/malbox.task.forgotten.v1.json"]
    assert pages.write(tmp_path) == ["docs/lifecycles.md", f"{pages.SCHEMAS}/malbox.task.forgotten.v1.json"]
    assert pages.outdated(tmp_path) == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_fits_its_published_schemas(example: object) -> None:
    """An enveloped message fits the envelope's schema and its own; one that lacks a required field fits neither."""
    kind = type(example)
    assert kind in BY_TYPE.values()
    envelope = Envelope.wrap(example, message_id="msg_1", source="test", at=AT)  # type: ignore[arg-type]
    written = json.loads(envelope.to_json())
    _validator("envelope").validate(written)
    schema = _validator(envelope.type)
    schema.validate(written["data"])
    required = BY_TYPE[envelope.type].model_json_schema()["required"]
    broken = {name: value for name, value in written["data"].items() if name not in required}
    assert not schema.is_valid(broken)


def test_the_asyncapi_document_is_one_and_every_reference_in_it_resolves() -> None:
    """FastStream's model of AsyncAPI 3.0 reads it, and no reference points nowhere."""
    document = json.loads((REFERENCE / "asyncapi.json").read_text(encoding="utf-8"))
    ApplicationSchema.model_validate(document)
    assert document["asyncapi"] == "3.0.0"
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    resolver = Registry().with_resource("", resource).resolver()
    references = list(_references(document))
    assert len(references) > 3 * len(BY_TYPE)
    for reference in references:
        if reference.startswith("#"):
            resolver.lookup(reference)
        else:
            assert (REFERENCE / reference).is_file(), reference


def test_the_asyncapi_document_names_who_says_and_who_hears() -> None:
    """One sending operation for each message that is said, one receiving operation for each handler."""
    document = json.loads((REFERENCE / "asyncapi.json").read_text(encoding="utf-8"))
    heard = sum(len(table) for table in handlers().values())
    said = sum(len(says(service)) for service in SERVICES)
    actions = [operation["action"] for operation in document["operations"].values()]
    assert (actions.count("receive"), actions.count("send")) == (heard, said)


def test_who_hears_and_who_says_is_read_from_the_code() -> None:
    """Known conversations are found, and a message that is only annotated is not taken for one that is said."""
    from contracts import intake, results, scheduler  # noqa: PLC0415 - the three that this test names

    assert heard_by(intake.TaskSubmitted) == ("scheduler", "results")
    assert said_in(scheduler.LeaseMachine) == ("announcements.py",)
    assert said_in(results.ReportReady)
    assert scheduler.TaskQueued in says("scheduler")
    assert all(follows for service in SERVICES for _, follows in hears(service)), "a handler without a docstring"


def test_the_facts_that_nothing_says_are_known() -> None:
    """A fact belongs to the contracts when something says it; these wait for what will, and no other may join them."""
    silent = {kind.__name__ for kind in FACTS if not said_in(kind)}
    assert silent == SILENT


def test_a_lifecycle_page_draws_every_move_and_names_every_state() -> None:
    """Each state has its sentence, each transition its event, and announcements are found behind their functions."""
    page = (pages.ROOT / "docs" / "lifecycles.md").read_text(encoding="utf-8")
    for life in (TASK, MACHINE):
        assert all(f"| {state} | {sentence} |" in page for state, sentence in life.known.items())
        for (state, event), successor in life.transitions.items():
            assert state == successor or f"{state} --> {successor} : " in page, (state, event)
    assert said_by(TASK.words[Task.Completed]) == ["TaskCompleted"]
    assert said_by(TASK.words[Task.AttemptFailed]) == ["TaskRequeued", "CancelStage"]


def test_the_gateway_leads_every_documented_route_to_its_service() -> None:
    """A path of the reference reaches the service that answers it; only the gateway's own question stays inside."""
    inside = set()
    for service in SERVICES:
        for method, path, _ in http_page.operations(service):
            answering = _answering(re.sub(r"\{\w+\}", "x", path))
            if answering is None:
                inside.add((method, path))
            else:
                assert answering == service, path
    assert inside == {("GET", "/api/v1/auth")}


def test_the_http_reference_says_what_each_route_is_for() -> None:
    """Every route has its sentence, and what a submission may ask is all there."""
    page = (REFERENCE / "http.md").read_text(encoding="utf-8")
    for service in SERVICES:
        for method, path, operation in http_page.operations(service):
            assert operation.get("description"), (method, path)
            assert f"### {method} {path.removeprefix(API)}\n" in page
    assert "| `archive_entry` | form, optional | text |" in page


def test_a_readme_keeps_what_people_wrote_around_its_generated_parts() -> None:
    """Only what stands between markers changes."""
    before = "# x\n\n<!-- generated: hears -->\nold\n<!-- /generated -->\nafter\n"
    after = readmes.filled(before, "machines")
    assert after.startswith("# x\n\n<!-- generated: hears -->\n| message |")
    assert after.endswith("<!-- /generated -->\nafter\n")
    assert "`LeaseMachine` (command)" in after
    assert "old" not in after


def test_a_marker_that_nothing_fills_is_refused() -> None:
    """A misspelt part would stay out of date for ever."""
    with pytest.raises(readmes.UnknownPart, match="haers"):
        readmes.filled("<!-- generated: haers -->\n<!-- /generated -->", "machines")


@pytest.mark.parametrize("service", SERVICES)
def test_a_readme_names_every_message_of_its_service(service: str) -> None:
    """Whether generated or written: everything heard and everything said stands in the README."""
    path = pages.ROOT / "services" / service / "README.md"
    readme = path.read_text(encoding="utf-8")
    wanted = {kind.__name__ for kind in (*handlers()[service], *says(service))}
    assert {name for name in wanted if name not in readme} == set(), path


def _answering(path: str) -> str | None:
    """Whom nginx asks: the first pattern that matches, else the longest prefix."""
    patterns = (route for route in ROUTES if route.is_pattern and re.fullmatch(API + route.match, path))
    prefixes = [route for route in ROUTES if not route.is_pattern and path.startswith(API + route.match)]
    found = next(patterns, None) or max(prefixes, key=lambda route: len(route.match), default=None)
    return found.service if found else None


def _validator(name: str) -> Draft202012Validator:
    schema = json.loads((REFERENCE / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def _references(value: object) -> "list[str]":
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [reference for inner in value.values() for reference in _references(inner)]
    if isinstance(value, list):
        return [reference for inner in value for reference in _references(inner)]
    return []
