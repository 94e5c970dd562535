"""Cases for the tests of the results service."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from contracts.scheduler import SealReport
from services.results.domain.case import Case
from services.results.domain.result import Kind, Result

TASK = "tsk_" + "1" * 32
SUBMITTED_AT = datetime(2026, 1, 1, tzinfo=UTC)
SEALED_AT = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


def result(
    number: int, plugin: str, *, kind: Kind = "json", name: str = "", path: str | None = None, attempt: int = 1
) -> Result:
    """A recorded result; `number` makes its id."""
    return Result(
        result_id=f"res_{number:032x}",
        task_id=TASK,
        attempt=attempt,
        stage="static",
        plugin=plugin,
        version="1.0.0",
        run_id="run_" + "0" * 32,
        name=name or plugin,
        kind=kind,
        media_type="application/json" if kind == "json" else "application/octet-stream",
        sha256=f"{number:064x}",
        size_bytes=100,
        path=path,
        is_truncated=False,
        recorded_at=SUBMITTED_AT,
    )


def seal(**changes: Any) -> SealReport:
    """The order to seal."""
    fields: dict[str, Any] = {
        "task_id": TASK,
        "submission_id": "sub_" + "2" * 32,
        "owner": "ann",
        "sample": {"blob": {"sha256": "ab" * 32, "size_bytes": 68}, "name": "harmless.sh"},
        "request": {},
        "plan": {"stages": []},
        "submitted_at": SUBMITTED_AT,
        "machine_id": "linux-1",
        "platform": "linux",
        "acceleration": "tcg",
        "attempts": 1,
        "outcome": "completed",
        "ended_by": "sample_exit",
        "result_ids": [],
        "errors": [],
    }
    return SealReport.model_validate({**fields, **changes})


def case(documents: Mapping[str, Any], *others: Result, **changes: Any) -> Case:
    """A case with a JSON result each, named `plugin` or `plugin/name`, bytes as they are; other results beside them."""
    named = [key.partition("/") for key in documents]
    results = [result(number, plugin, name=name) for number, (plugin, _, name) in enumerate(named, start=1)]
    contents = {
        one.result_id: content if isinstance(content, bytes) else json.dumps(content).encode()
        for one, content in zip(results, documents.values(), strict=True)
    }
    return Case(seal(**changes), SEALED_AT, (*results, *others), contents)
