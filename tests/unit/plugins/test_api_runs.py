"""Who may read what a run logged: administrators, and nobody else."""

from typing import Any, cast

import httpx
import pytest

from services.chassis.http import build_app
from services.plugins.api_runs import runs_router

SECRET = "known to the gateway"


class Runs:
    """A store with one run."""

    async def fetch(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        """The run, where it is asked for."""
        is_there = "FROM stage_runs" in sql and arguments[0] == "tsk_1" and arguments[2:] in ((), ("yara",))
        return [{"plugin": "yara", "outcome": "crashed", "log": "why"}] if is_there else []


async def answer(path: str, roles: str) -> httpx.Response:
    """What somebody with these roles is told."""

    async def ready() -> dict[str, Any]:
        return {"is_ready": True}

    app = build_app(
        service="plugins", version="0", gateway_secret=SECRET, routers=[runs_router(cast("Any", Runs()))],
        readiness=ready,
    )  # fmt: skip
    headers = {"X-Malbox-Subject": "ann", "X-Malbox-Gateway": SECRET, "X-Malbox-Roles": roles}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://plugins") as client:
        return await client.get(f"/api/v1/plugins/runs/{path}", headers=headers)


@pytest.mark.promise("P39")
@pytest.mark.parametrize("path", ["tsk_1", "tsk_1/yara"])
async def test_a_log_is_for_administrators(path: str) -> None:
    """What a sample made a plugin write is not for whoever asks: the task may be another's."""
    assert (await answer(path, "")).status_code == httpx.codes.FORBIDDEN
    allowed = await answer(path, "admin")
    assert allowed.status_code == httpx.codes.OK
    assert [one["plugin"] for one in allowed.json()["items"]] == ["yara"]


async def test_of_a_plugin_that_did_not_run_it_is_said_which_did() -> None:
    """A task of which nothing ended has no runs, which is no error."""
    absent = await answer("tsk_1/pe", "admin")
    assert (absent.status_code, absent.json()["code"], absent.json()["allowed"]) == (404, "unknown_run", ["yara"])
    assert (await answer("tsk_2", "admin")).json() == {"items": []}
