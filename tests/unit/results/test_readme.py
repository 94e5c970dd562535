"""The service's README says what the code does."""

import re
from pathlib import Path

import pytest

from contracts.results import ArtifactStored, ReportReady, VerdictChanged
from services.chassis.blobs import BlobStore
from services.results.handlers import handlers

README = Path(__file__).parents[3] / "services" / "results" / "README.md"


def named_under(heading: str) -> set[str]:
    """The message classes that a part of the README names in the first column of its table."""
    body = README.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`([A-Z]\w+)`", " ".join(rows)))


@pytest.mark.promise("F1")
def test_the_readme_names_what_the_service_hears_and_says(tmp_path: Path) -> None:
    """The two tables are those of the code."""
    assert named_under("Hears") == {kind.__name__ for kind in handlers(BlobStore(tmp_path))}
    assert named_under("Says") == {ArtifactStored.__name__, ReportReady.__name__, VerdictChanged.__name__}
