"""Intake against a real database and a real broker: what is refused, to whom, and in which words."""

import asyncio
import re
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.machines import MachineRegistered, MachineRetired
from contracts.scheduler import TaskStarted, TaskTimedOut
from services.chassis.blobs import BlobStore
from services.intake.adapters.upload import MEMORY_MAX_BYTES
from tests.integration.intake_desk import MACHINE, SECRET, TOKEN, Cable, Desk, running

pytestmark = pytest.mark.integration
ROOT = str(Path(__file__).parents[3])
HEADERS = st.dictionaries(
    st.sampled_from(["Content-Type", "Idempotency-Key", "Authorization", "X-Malbox-Roles", "Content-Length-X"]),
    # No control characters: RFC 9110, 5.5 lets none into a field, and what is not HTTP the server turns away by itself.
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]), max_size=30).map(str.strip)
    | st.sampled_from(["multipart/form-data; boundary=b", "multipart/form-data", "Bearer x"]),
)
PATHS = st.sampled_from(["/submissions", "/submissions/options", "/auth"]) | st.text(max_size=20).map(
    lambda text: f"/submissions/{quote(text, safe='')}?limit={quote(text)}&after={quote(text)}"
)
BODIES = st.lists(
    st.binary(max_size=30)
    | st.sampled_from(
        [
            b"--b\r\n",
            b"\r\n--b--\r\n",
            b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
            b'Content-Disposition: form-data; name="plugin"\r\n\r\n{"name": 1}\r\n',
            b'Content-Disposition: form-data; name="timeout"\r\n\r\n9e9\r\n',
        ]
    ),
    max_size=8,
).map(b"".join)


@pytest.mark.promise("P13")
@pytest.mark.parametrize("change", [{"content": b"other"}, {"name": "b.exe"}, {"custom": "x"}])
async def test_a_key_that_stands_for_other_content_is_refused(desk: Desk, change: dict[str, str]) -> None:
    """A client that reuses a key by mistake is told, and not given somebody else's outcome."""
    assert (await desk.submit(key="k-2")).status_code == 202
    answer = await desk.submit(**{"key": "k-2", **change})  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.promise("A2", "A3")
@pytest.mark.parametrize(
    ("fields", "status", "code", "allowed"),
    [
        ({"profile": "macos"}, 422, "unknown_profile", ["linux"]),
        ({"plugin": "nope"}, 422, "unknown_plugin", ["yara"]),
        ({"machine": "m"}, 422, "unknown_machine", ["linux-1"]),
        ({"route": "internet"}, 422, "unserviceable", ["none", "simulated"]),
        ({"route": "tor"}, 422, "invalid_choice", ["internet", "none", "simulated"]),
        ({"memory": "yes"}, 422, "unknown_field", None),
        ({"content": b""}, 422, "empty_file", None),
        ({"content": b"x" * 1_000_001}, 413, "sample_too_large", None),
    ],
)
async def test_a_refusal_is_a_problem_with_code_pointer_and_choices(
    desk: Desk, fields: dict[str, str], status: int, code: str, allowed: list[str] | None
) -> None:
    """RFC 9457, with what would have been valid; and nothing is recorded."""
    answer = await desk.submit(**fields)  # type: ignore[arg-type]
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["pointer"].startswith("/")
    assert {"type", "title", "detail"} <= set(problem)
    if allowed is not None:
        assert problem["allowed"] == allowed
    assert (await desk.client.get("/submissions", headers=desk.headers())).json()["items"] == []


async def test_before_anything_is_known_the_client_is_asked_to_wait(
    database_url: str, amqp_url: str, tmp_path: Path
) -> None:
    """503 with Retry-After, in words that say what is missing; accepted as soon as it is known."""
    async with running(database_url, amqp_url, tmp_path) as desk:
        answer = await desk.submit()
        assert (answer.status_code, answer.json()["code"]) == (503, "catalogue_empty")
        assert int(answer.headers["retry-after"]) > 0
        assert "machines" in answer.json()["detail"]
        await desk.know()
        assert (await desk.submit()).status_code == 202


@pytest.mark.promise("G3")
async def test_once_every_machine_is_retired_nobody_is_asked_to_wait(desk: Desk) -> None:
    """Refused with what an operator has to do; accepted again with a new machine."""
    await desk.say(MachineRetired(machine_id="linux-1", epoch=7, reason="sold"))
    await desk.until_known(lambda known: known["machines"] == [])
    problem = (await desk.submit()).json()
    assert (problem["status"], problem["code"]) == (422, "unserviceable")
    assert "retired" in problem["detail"]
    await desk.say(MachineRegistered(machine_id="linux-9", epoch=0, machine=MACHINE))
    await desk.until_known(lambda known: bool(known["machines"]))
    assert (await desk.submit()).status_code == 202


@pytest.mark.promise("P39")
async def test_a_submission_is_seen_by_its_owner_and_an_administrator_only(desk: Desk) -> None:
    """To anybody else it does not exist."""
    submission_id = (await desk.submit(subject="ann")).json()["submission_id"]
    path = f"/submissions/{submission_id}"
    seen = {
        who: (await desk.client.get(path, headers=desk.headers(*who))).status_code
        for who in (("ann", ""), ("root", "admin"), ("bob", "analyst"))
    }
    assert seen == {("ann", ""): 200, ("root", "admin"): 200, ("bob", "analyst"): 404}
    assert (await desk.client.get("/submissions", headers=desk.headers("bob"))).json()["items"] == []


@pytest.mark.promise("P39", "F3")
async def test_nothing_is_answered_without_the_gateway(desk: Desk) -> None:
    """Every route but health needs the gateway's secret, whatever identity is claimed."""
    document = (await desk.client.get("/openapi/intake.json")).json()
    routes = [(path, method) for path, methods in document["paths"].items() for method in methods]
    assert len(routes) >= 5
    for path, method in routes:
        if "/health/" in path:
            continue
        url = str(desk.client.base_url).removesuffix("/api/v1/") + re.sub(r"{\w+}", "x", path)
        for headers in ({}, {"X-Malbox-Subject": "admin", "X-Malbox-Roles": "admin", "X-Malbox-Gateway": "wrong"}):
            answer = await desk.client.request(method, url, headers=headers)
            assert answer.status_code == 401, (method, path)
            assert answer.json()["code"] == "unauthenticated"


@pytest.mark.promise("P40", "F3")
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 204),
        (f"bearer {TOKEN}", 204),
        (f"Bearer {TOKEN}x", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer", 401),
        ("", 401),
        ("Bearer " + "x" * 5000, 401),
    ],
)
async def test_only_the_administrators_token_proves_an_identity(desk: Desk, authorization: str, status: int) -> None:
    """The gateway learns subject and roles for the right token, and nothing for any other."""
    headers = {"X-Malbox-Gateway": SECRET, "Authorization": authorization}
    answer = await desk.client.get("/auth", headers=headers)
    assert answer.status_code == status
    expected = ("admin", "admin") if status == 204 else (None, None)
    assert (answer.headers.get("x-malbox-subject"), answer.headers.get("x-malbox-roles")) == expected


@pytest.mark.promise("P12", "P18")
async def test_nothing_is_accepted_while_the_database_is_away(database_url: str, amqp_url: str, tmp_path: Path) -> None:
    """Where the row cannot be written the answer is 503, and the same request succeeds afterwards, once."""
    place = urlsplit(database_url)
    cable = Cable(place.hostname or "", place.port or 5432)
    await cable.plug_in()
    url = database_url.replace(f":{place.port}/", f":{cable.port}/")
    try:
        async with running(url, amqp_url, tmp_path) as desk:
            await desk.know()
            await cable.pull_out()
            refused = await desk.submit(key="k-3")
            await cable.plug_in()
            accepted = await desk.submit(key="k-3")
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert int(refused.headers["retry-after"]) > 0
            assert accepted.status_code == 202
            listed = (await desk.client.get("/submissions", headers=desk.headers())).json()
            assert len(listed["items"]) == 1
    finally:
        await cable.pull_out()


@pytest.mark.promise("P12", "P18")
async def test_nothing_is_accepted_that_the_object_store_did_not_take(
    database_url: str, amqp_url: str, tmp_path: Path
) -> None:
    """503 for a small sample as for a large one while no blob can be written; both are taken once it can be."""
    samples = {"small": b"small", "large": b"x" * (MEMORY_MAX_BYTES + 1)}
    async with running(database_url, amqp_url, tmp_path) as desk:
        await desk.know()
        in_the_way = desk.settings.blob_dir / "sha256"
        in_the_way.write_bytes(b"")
        refused = [await desk.submit(content, key=key) for key, content in samples.items()]
        in_the_way.unlink()
        listed = (await desk.client.get("/submissions", headers=desk.headers())).json()["items"]
        accepted = [await desk.submit(content, key=key) for key, content in samples.items()]
        blobs = BlobStore(desk.settings.blob_dir)
        sizes = [await blobs.size(answer.json()["sample"]["sha256"]) for answer in accepted]
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(503, "storage_unavailable")] * 2
    assert listed == []
    assert [answer.status_code for answer in accepted] == [202, 202]
    assert sizes == [len(content) for content in samples.values()]


@pytest.mark.promise("A3", "P49")
async def test_no_request_whatever_makes_the_service_fail(desk: Desk) -> None:
    """Every answer is below 500, and every refusal is a problem that names no path, query or line of ours."""

    async def asked(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        sent = {**desk.headers(), **headers}
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
        answer = await desk.client.request(method, path, headers=encoded, content=body)
        assert answer.status_code < 500, (answer.status_code, answer.text)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert {"type", "title", "status", "detail", "code"} <= set(answer.json())
            assert not re.search(rf"Traceback|File \"|SELECT |{re.escape(ROOT)}|\.py", answer.json()["detail"])

    loop = asyncio.get_running_loop()

    @settings(max_examples=150, deadline=None)
    @given(st.sampled_from(["GET", "POST", "PUT", "DELETE"]), PATHS, HEADERS, BODIES)
    def ask(method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        asyncio.run_coroutine_threadsafe(asked(method, path, headers, body), loop).result(timeout=30)

    await asyncio.to_thread(ask)


@pytest.mark.promise("P44")
async def test_an_owner_with_too_many_tasks_that_wait_is_told_to_come_later(
    database_url: str, amqp_url: str, tmp_path: Path
) -> None:
    """429 with a code, the limit and what to do; nobody else is held up, and a task that begins makes room."""
    async with running(database_url, amqp_url, tmp_path, queued_per_owner_max=2) as desk:
        await desk.know()
        accepted = [await desk.submit(b"%d" % number) for number in range(2)]
        assert [answer.status_code for answer in accepted] == [202, 202]
        refused = await desk.submit(b"one too many")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_queued")
        assert "more than 2 (queued_per_owner_max of intake)" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) > 0
        assert (await desk.submit(b"0", subject="bob")).status_code == 202
        begun, over = (answer.json()["tasks"][0]["task_id"] for answer in accepted)
        await desk.say(TaskStarted(task_id=begun, machine_id="linux-1", attempt=1))
        await desk.say(TaskTimedOut(task_id=over, attempts=0, machine="none"))
        async with asyncio.timeout(60):
            while (answer := await desk.submit(b"later")).status_code == 429:  # noqa: ASYNC110 - the count is a second old
                await asyncio.sleep(0.1)
        assert answer.status_code == 202
