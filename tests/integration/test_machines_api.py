"""What an operator sees of the fleet and decides about a machine over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import httpx
import pytest

from services.chassis.http import build_app
from services.chassis.work import WorkContext, WorkItem
from services.machines.api import router
from services.machines.domain.fence import Claim
from services.machines.errors import Unstoppable
from tests.integration.machines_bench import Bench, bench, lease_order, spec

pytestmark = pytest.mark.integration
SECRET = "0123456789abcdef"
M1 = "m1"
WHY = {"reason": "the host is to be updated"}


@pytest.fixture
async def made(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """One ready machine."""
    async with bench(database_url, tmp_path, spec(M1)) as one:
        await one.reconcile()
        await one.is_in(M1, "ready")
        await one.caught_up()
        yield one


@pytest.fixture
async def api(made: Bench) -> AsyncIterator[httpx.AsyncClient]:
    """The fleet's routes, as the administrator Ana reaches them."""

    async def readiness() -> dict[str, bool]:
        return {"is_ready": True}

    routers = (router(made.runtime, made.reconciler.hindrance, made.effects.troubles.unstopped),)
    app = build_app(service="machines", version="1", gateway_secret=SECRET, routers=routers, readiness=readiness)
    headers = {"x-malbox-subject": "ana", "x-malbox-roles": "admin", "x-malbox-gateway": SECRET}
    base = f"http://malbox/api/v1/machines/{M1}"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base, headers=headers) as client:
        yield client


async def test_a_ready_machine_is_drained_and_returned_and_the_history_says_by_whom_and_why(
    made: Bench, api: httpx.AsyncClient
) -> None:
    """Out of the pool at once; back only once it is verified clean."""
    drained = await api.post("/drain", json=WHY)
    assert (drained.status_code, drained.json()["state"]) == (202, "maintenance")
    returned = await api.post("/return", json={"reason": "it was updated"})
    assert (returned.status_code, returned.json()["state"]) == (202, "cleaning")
    await made.is_in(M1, "ready")
    await made.caught_up()
    said = [key.removeprefix("machines.machine.") for key in await made.said()]
    assert said[-3:] == ["withdrawn.v1", "restored.v1", "reverted.v1"]
    history = (await api.get("/history")).json()["items"]
    words = {entry["event"]: entry["details"] for entry in history if entry["details"].get("by")}
    assert words["MaintenanceStarted"] == {"by": "ana", **WHY}
    assert words["Returned"] == {"by": "ana", "reason": "it was updated"}


@pytest.mark.promise("P39")
@pytest.mark.parametrize(
    ("subject", "roles", "is_shown"), [("ana", "admin", True), ("ben", "", True), ("eve", "", False)]
)
async def test_whose_a_machine_is_is_shown_to_administrators_and_to_the_owner_of_the_task(
    made: Bench, api: httpx.AsyncClient, subject: str, roles: str, *, is_shown: bool
) -> None:
    """The list, the machine and its history tell others that it is leased, and no more."""
    await made.hear(lease_order(M1).model_copy(update={"owner": "ben"}))
    leased = await made.is_in(M1, "active")
    await made.caught_up()
    who = {"x-malbox-subject": subject, "x-malbox-roles": roles}
    [listed] = (await api.get("http://malbox/api/v1/machines", headers=who)).json()["items"]
    shown = (await api.get(f"http://malbox/api/v1/machines/{M1}", headers=who)).json()
    expected = (leased.task_id, leased.lease_id) if is_shown else (None, None)
    for one in (listed, shown):
        assert (one["state"], one["task_id"], one["lease_id"]) == ("active", *expected)
    told = json.dumps([shown["history"], (await api.get("/history", headers=who)).json()])
    assert (str(leased.task_id) in told, str(leased.lease_id) in told) == (roles == "admin", roles == "admin")


async def test_a_machine_that_could_not_be_stopped_says_so_until_it_is(made: Bench, api: httpx.AsyncClient) -> None:
    """In its own `why`, behind the operator's reason, and in the health of the service."""
    url = f"http://malbox/api/v1/machines/{M1}"
    assert (await api.post("/quarantine", json=WHY)).status_code == 202
    await made.worked_off("stop")
    machine = await made.load(M1)
    item = WorkItem(1, "stop", M1, {"machine_id": M1, "epoch": machine.epoch}, 10)
    reason = "process 7 did not end within 10 s of SIGKILL"
    await made.effects.give_up_stopping(item, cast("WorkContext", None), Unstoppable(reason))
    await made.caught_up()
    assert (await api.get(url)).json()["why"] == f"{WHY['reason']}; stopping it failed: {reason}"
    assert made.effects.troubles.condition()["unstopped"] == {M1: reason}
    assert (await api.post("/return", json=WHY)).status_code == 202
    await made.is_in(M1, "ready")
    await made.caught_up()
    assert "failed" not in (await api.get(url)).json()["why"]
    assert made.effects.troubles.condition()["unstopped"] == {}


async def test_a_leased_machine_is_drained_when_its_lease_is_over(made: Bench, api: httpx.AsyncClient) -> None:
    """The request is seen, may be taken back, and does not disturb the lease."""
    leased = await made.leased(M1)
    assert (await api.post("/drain", json=WHY)).json() == {
        "machine_id": M1,
        "state": "active",
        "is_drain_requested": True,
    }
    await made.caught_up()
    shown = (await api.get(f"http://malbox/api/v1/machines/{M1}")).json()
    assert (shown["is_drain_requested"], shown["lease_id"], shown["term"]) == (True, leased.lease_id, 1)
    assert (await api.post("/return", json=WHY)).json()["is_drain_requested"] is False
    assert (await made.load(M1)).lease_id == leased.lease_id


async def test_a_machine_whose_image_is_not_there_says_so(made: Bench, api: httpx.AsyncClient) -> None:
    """A new one waits for it, one that stands ready is to become it; whoever looks at either sees why it does not."""
    made.host.absent_images.add("lnux")
    made.wishes.put(spec(M1, image="lnux"), spec("m2", image="lnux"))
    await made.reconcile()
    await made.caught_up()
    shown = (await api.get("http://malbox/api/v1/machines")).json()["items"]
    assert [(each["machine_id"], each["state"]) for each in shown] == [(M1, "ready"), ("m2", "registered")]
    assert {each["why"] for each in shown} == {
        "there is no built image lnux; build the image, or name another in the machines file"
    }
    made.host.absent_images.clear()
    await made.reconcile()
    await made.is_in("m2", "ready")
    await made.caught_up()
    assert (await api.get("http://malbox/api/v1/machines/m2")).json()["why"] == ""


@pytest.mark.promise("A3", "G9")
async def test_what_is_not_possible_is_refused_with_what_to_do_instead(made: Bench, api: httpx.AsyncClient) -> None:
    """In words that name the other order."""
    for order, remedy in (("rebuild", "quarantine it"), ("retire", "Drain it"), ("return", "Drain it")):
        refused = await api.post(f"/{order}", json=WHY)
        problem = refused.json()
        assert (refused.status_code, problem["code"], problem["state"]) == (409, "not_possible", "ready")
        assert remedy in problem["detail"]
    assert (await made.load(M1)).state == "ready"


@pytest.mark.promise("P39")
async def test_only_an_administrator_decides_and_only_with_a_reason(made: Bench, api: httpx.AsyncClient) -> None:
    """Nothing is recorded otherwise."""
    version = (await made.load(M1)).version
    for order in ("drain", "return", "quarantine", "rebuild", "retire"):
        user = await api.post(f"/{order}", json=WHY, headers={"x-malbox-roles": "user"})
        silent = await api.post(f"/{order}", json={"reason": "  "})
        assert (user.status_code, silent.status_code) == (403, 422)
    assert (await made.load(M1)).version == version


@pytest.mark.promise("P10")
async def test_a_quarantined_machine_is_rebuilt_and_a_retired_one_is_gone(made: Bench, api: httpx.AsyncClient) -> None:
    """Each by an operator's word only."""
    assert (await api.post("/quarantine", json={"reason": "it smells"})).json()["state"] == "quarantined"
    assert (await api.post("/rebuild", json=WHY)).json()["state"] == "provisioning"
    await made.is_in(M1, "ready")
    await api.post("/quarantine", json={"reason": "it smells again"})
    assert (await api.post("/retire", json=WHY)).json()["state"] == "retired"
    refused = await api.post("/rebuild", json=WHY)
    assert refused.status_code == 409
    assert "gone for good" in refused.json()["detail"]


@pytest.mark.promise("P5", "P10")
async def test_nothing_of_a_retired_machine_is_kept_but_its_fence(
    made: Bench, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files go, and then its certificate authority; while it is only quarantined both are evidence."""
    honest, erased = made.host.erase, []

    async def erase(machine_id: str, *, epoch: int, claim: Claim) -> None:
        erased.append((machine_id, await authorities_of(made)))
        await honest(machine_id, epoch=epoch, claim=claim)

    monkeypatch.setattr(made.host, "erase", erase)
    await api.post("/quarantine", json=WHY)
    async with asyncio.timeout(60):
        while made.host._machines[M1].life_epoch is not None:
            await made.host.changed()
    await api.post("/retire", json=WHY)
    async with asyncio.timeout(60):
        while await authorities_of(made):
            await made.changed.wait()
    assert erased == [(M1, 1)]
    assert (await made.host.fences())[M1] == (await made.load(M1)).epoch


async def authorities_of(made: Bench) -> int:
    """How many the service has; whatever is committed from now on is seen by whoever waits."""
    made.changed.clear()
    return len(await made.store.fetch("SELECT 1 FROM authorities"))


async def test_the_history_is_whole_and_comes_in_pages(api: httpx.AsyncClient) -> None:
    """Newest first, none twice, none left out."""
    whole = (await api.get("/history")).json()["items"]
    assert [entry["version"] for entry in whole] == list(range(len(whole), 0, -1))
    paged: list[dict[str, object]] = []
    before = None
    while True:
        page = (await api.get("/history", params={"limit": 2, **({"before": before} if before else {})})).json()
        paged += page["items"]
        before = page["next"]
        if before is None:
            break
    assert paged == whole
    assert (await api.get(f"http://malbox/api/v1/machines/{M1}x/history")).status_code == 404
