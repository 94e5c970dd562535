"""What the catalogue says over HTTP of a plugin that is quarantined."""

from typing import Any

import httpx
import pytest

from services.chassis.http import build_app
from services.plugins.api import router
from services.plugins.domain.catalogue import Catalogue
from services.plugins.instances import Instances
from services.plugins.policy import restarts
from services.plugins.registry import Registry
from tests.unit.plugins.instances_bench import FakeRunner, plugin, served, until

SECRET = "known to the gateway"


async def answer(registry: Registry, instances: Instances, path: str) -> Any:
    """What anybody is told."""

    async def ready() -> dict[str, Any]:
        return {"is_ready": True}

    app = build_app(
        service="plugins", version="0", gateway_secret=SECRET, routers=[router(registry, instances)], readiness=ready
    )
    headers = {"X-Malbox-Subject": "ann", "X-Malbox-Gateway": SECRET, "X-Malbox-Roles": ""}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://plugins") as client:
        return (await client.get(f"/api/v1/plugins{path}", headers=headers)).json()


@pytest.mark.promise("D1", "P52")
async def test_a_quarantined_plugin_is_listed_with_why_since_when_and_what_lifts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the list and by its name; once it was replaced, as any other. Its neighbours never."""
    monkeypatch.setattr(restarts, "BACKOFF_FIRST_S", 0.01)
    one, other = plugin("one"), plugin("other", lifecycle="ephemeral")
    registry, runner = Registry(Catalogue({"one": one, "other": other})), FakeRunner(failures=["no module x"] * 99)
    async with served(runner, one, other) as instances:
        await until(lambda: instances.given_up(one) is not None)
        for shown in ((await answer(registry, instances, ""))["items"][0], await answer(registry, instances, "/one")):
            assert (shown["name"], shown["state"]) == ("one", "quarantined")
            assert "failed 5 times in a row" in shown["reason"]
            assert "no module x" in shown["reason"]
            assert shown["since"] == instances.given_up(one).since.isoformat()  # type: ignore[union-attr]
            assert "malbox plugin replace one --reason" in shown["remedy"]
        neighbour = await answer(registry, instances, "/other")
        assert (neighbour["state"], "remedy" in neighbour) == ("registered", False)
        runner.failures.clear()
        await instances.replace("one")
        assert (await answer(registry, instances, "/one"))["state"] == "registered"
