"""The published schema of the report."""

import json
from pathlib import Path

import jsonschema
import pytest

from services.results.assembly import assemble
from services.results.schema import document
from tests.unit.results.cases import case, result

SCHEMA_FILE = Path(__file__).parents[3] / "docs" / "reference" / "report.schema.json"


@pytest.mark.promise("F1")
def test_the_published_schema_is_that_of_the_code() -> None:
    """`python -m services.results.schema > docs/reference/report.schema.json` brings it up to date."""
    assert SCHEMA_FILE.read_text(encoding="utf-8") == document()


def test_a_report_fits_the_published_schema() -> None:
    """What is served validates, and what is not a report does not."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    behaviour = {"processes": [{"pid": 1, "argv": ["a"]}], "files": [{"path": "/etc/cron.d/x", "actions": ["written"]}]}
    dropped = result(8, "syscalls", kind="file", path="/etc/cron.d/x")
    report = json.loads(assemble(case({"behaviour": behaviour, "elf": {"bits": 64}}, dropped)).to_json())
    jsonschema.validate(report, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**report, "verdict": "fine"}, schema)
