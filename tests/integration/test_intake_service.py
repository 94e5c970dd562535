"""Intake against a real database and a real broker: what is accepted is durable and said, the rest is refused."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.blobs import BlobRef
from contracts.ids import derived
from contracts.intake import ChildrenChosen, SampleStored, TaskCancellationRequested, TaskSubmitted
from contracts.machines import MachineRegistered, MachineRetired
from contracts.planning import Plan
from contracts.plugins import ChildrenFound, FoundChild, PluginRemoved
from contracts.scheduler import TaskPlanned, TaskStarted, TaskTimedOut
from services.chassis.blobs import BlobStore
from tests.integration.intake_desk import MACHINE, PLUGIN, SECRET, TOKEN, Cable, Desk, running

ROOT = str(Path(__file__).parents[2])
pytestmark = pytest.mark.integration


@pytest.fixture
async def desk(database_url: str, amqp_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    """A running intake that knows one machine and one plugin."""
    async with running(database_url, amqp_url, tmp_path, sample_max_bytes=1_000_000) as running_desk:
        await running_desk.know()
        yield running_desk


@pytest.mark.promise("P12", "P43")
async def test_an_accepted_sample_is_stored_recorded_and_said(desk: Desk) -> None:
    """After 202 the bytes are in the object store, the submission can be read, and both facts are on the bus."""
    answer = await desk.submit(b"MZ" * 1000, name="../evil\n.exe", custom="case 7", tag=["a", "b"])
    assert answer.status_code == 202, answer.text
    content = answer.json()
    sample, task = content["sample"], content["tasks"][0]
    assert (sample["name"], sample["size_bytes"], task["profile"]) == ("evil_0A.exe", 2000, "linux")
    blobs = BlobStore(desk.settings.blob_dir)
    assert await blobs.read(sample["sha256"], limit_bytes=10_000) == b"MZ" * 1000

    facts = [(await desk.next_fact())[1] for _ in range(2)]
    stored = next(fact for fact in facts if isinstance(fact, SampleStored))
    submitted = next(fact for fact in facts if isinstance(fact, TaskSubmitted))
    assert (stored.sample.blob.sha256, stored.owner) == (sample["sha256"], "ann")
    assert (submitted.task_id, submitted.request.custom, submitted.request.tags) == (
        task["task_id"],
        "case 7",
        ("a", "b"),
    )

    assert answer.headers["location"] == f"/api/v1/submissions/{content['submission_id']}"
    shown = await desk.client.get(f"/submissions/{content['submission_id']}", headers=desk.headers())
    assert shown.json() == {**content, "children": []}


@pytest.mark.promise("P15", "P21", "G1")
async def test_a_file_found_inside_becomes_a_task_of_the_submission_once(desk: Desk) -> None:
    """The same fact twice makes no second task; the submission shows it, and its cancellation ends it and bars more."""
    submission = (await desk.submit(b"PK", name="a.zip", timeout="90")).json()
    root = submission["tasks"][0]["task_id"]
    found = found_inside(submission["submission_id"], root, "1", "2")
    for _ in range(2):
        await desk.say(found)
    facts = [(await desk.next_fact())[1] for _ in range(8)]
    chosen, again = [fact for fact in facts if isinstance(fact, ChildrenChosen)]
    assert again == chosen
    [_, *made] = [fact for fact in facts if isinstance(fact, TaskSubmitted)]
    assert {fact.task_id for fact in made} == {child.task_id for child in chosen.children}
    assert all(fact.parent is not None and fact.parent.task_id == root for fact in made)
    assert {(fact.owner, fact.request.timeout_s, fact.sample.name) for fact in made} == {
        ("ann", 90, "1.sh"),
        ("ann", 90, "2.sh"),
    }
    path = f"/submissions/{submission['submission_id']}"
    shown = (await desk.client.get(path, headers=desk.headers())).json()
    assert [child["task_id"] for child in shown["children"]] == [child.task_id for child in chosen.children]

    assert (await desk.client.post(f"{path}/cancel", headers=desk.headers())).status_code == 202
    asked = [(await desk.next_fact())[1] for _ in range(3)]
    assert {fact.task_id for fact in asked if isinstance(fact, TaskCancellationRequested)} == {
        root,
        *(fact.task_id for fact in made),
    }
    await desk.say(found_inside(submission["submission_id"], made[0].task_id, "3"))
    _, late = await desk.next_fact()
    assert isinstance(late, ChildrenChosen)
    assert [child.reason for child in late.children] == ["the submission was cancelled"]


@pytest.mark.promise("P15")
async def test_tasks_that_find_the_same_files_at_once_make_one_task_of_each(desk: Desk) -> None:
    """Ten children meet the same four files in the same instant: whoever comes later points to what there is."""
    submission = (await desk.submit(b"PK", name="a.zip")).json()
    submission_id, root = submission["submission_id"], submission["tasks"][0]["task_id"]
    await desk.say(found_inside(submission_id, root, *map(str, range(10))))
    children: list[str] = []
    while len(children) < 10:
        _, fact = await desk.next_fact()
        if isinstance(fact, TaskSubmitted) and fact.parent is not None:
            children.append(fact.task_id)
    await asyncio.gather(*(desk.say(found_inside(submission_id, child, *"abcd")) for child in children))
    chosen, made = 0, 0
    while chosen < 11:
        _, fact = await desk.next_fact()
        chosen += isinstance(fact, ChildrenChosen)
        made += isinstance(fact, TaskSubmitted)
    shown = (await desk.client.get(f"/submissions/{submission_id}", headers=desk.headers())).json()
    hashes = [child["sample"]["sha256"] for child in shown["children"]]
    assert (len(hashes), len(set(hashes)), made <= 4) == (14, 14, True)


def found_inside(submission_id: str, task_id: str, *names: str) -> ChildrenFound:
    """A script of each name was found inside the task's sample."""
    children = [
        FoundChild(
            result_id=derived("res", task_id, name),
            plugin="archives",
            name=f"bin/{name}.sh",
            blob=BlobRef(sha256=hashlib.sha256(name.encode()).hexdigest(), size_bytes=10),
            package="shell",
            platform="linux",
            mime="text/x-shellscript",
        )
        for name in names
    ]
    return ChildrenFound(
        task_id=task_id, attempt=1, stage="static", submission_id=submission_id, children=tuple(children)
    )


async def test_cancelling_a_submission_asks_every_task_of_it_to_end(desk: Desk) -> None:
    """The tasks are the scheduler's: intake says what is wanted. Nobody else's submission can be named."""
    submission = (await desk.submit()).json()
    path = f"/submissions/{submission['submission_id']}/cancel"
    assert (await desk.client.post(path, headers=desk.headers(subject="bob"))).status_code == 404
    answer = await desk.client.post(path, headers=desk.headers())
    assert answer.status_code == 202, answer.text
    facts = [(await desk.next_fact())[1] for _ in range(3)]
    asked = [fact for fact in facts if isinstance(fact, TaskCancellationRequested)]
    assert [(fact.task_id, fact.by) for fact in asked] == [(submission["tasks"][0]["task_id"], "ann")]


@pytest.mark.promise("P13")
async def test_the_same_key_makes_one_submission_however_often_it_is_sent(desk: Desk) -> None:
    """Twelve copies of one request, ten of them at once, are one submission with one task."""
    answers = [await desk.submit(key="k-1")]
    answers += await asyncio.gather(*(desk.submit(key="k-1") for _ in range(10)))
    answers.append(await desk.submit(key="k-1"))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["submission_id"] for answer in answers}) == 1
    listed = (await desk.client.get("/submissions", headers=desk.headers())).json()
    assert len(listed["items"]) == 1
    other = await desk.submit(key="k-1", subject="bob")
    assert other.json()["submission_id"] != answers[0].json()["submission_id"]


@pytest.mark.promise("P13")
async def test_concurrent_first_uses_of_a_key_make_one_submission(desk: Desk) -> None:
    """Nobody comes first when all come at once; still one submission stands."""
    answers = await asyncio.gather(*(desk.submit(key="race") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["submission_id"] for answer in answers}) == 1


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


async def test_what_its_owners_withdraw_can_no_longer_be_asked_for(desk: Desk) -> None:
    """A removed plugin and a retired machine are unknown again, even when an old message comes late."""
    await desk.say(MachineRegistered(machine_id="linux-2", epoch=0, machine=MACHINE))
    await desk.say(MachineRetired(machine_id="linux-1", epoch=3, reason="sold"))
    await desk.say(MachineRegistered(machine_id="linux-1", epoch=2, machine=MACHINE))
    await desk.say(PluginRemoved(name=PLUGIN.name))
    await desk.until_known(lambda known: not known["plugins"] and len(known["machines"]) == 1)


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


async def test_pages_of_submissions_join_without_gap_or_repeat(desk: Desk) -> None:
    """Following `next` shows each submission once, the newest first."""
    made = [(await desk.submit(str(number).encode())).json()["submission_id"] for number in range(5)]
    seen, mark = [], ""
    for _ in range(5):
        page = (await desk.client.get(f"/submissions?limit=2{mark}", headers=desk.headers())).json()
        seen += [each["submission_id"] for each in page["items"]]
        if page["next"] is None:
            break
        mark = f"&after={page['next']}"
    assert seen == made[::-1]


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


@pytest.mark.promise("P12")
async def test_a_task_that_the_scheduler_never_mentions_is_said_again(desk: Desk, database_url: str) -> None:
    """The broker may lose the message: it is said again under the same id, until the scheduler plans the task."""
    answer = (await desk.submit()).json()
    task_id = answer["tasks"][0]["task_id"]
    first = [await desk.next_fact() for _ in range(2)]
    message_id, submitted = next(pair for pair in first if isinstance(pair[1], TaskSubmitted))
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        await connection.execute("UPDATE intake.work SET due_at = now()")
        again_id, again = await desk.next_fact()
        assert (again_id, again) == (message_id, submitted)
        assert isinstance(submitted, TaskSubmitted)
        await desk.say(
            TaskPlanned(
                task_id=task_id,
                submission_id=answer["submission_id"],
                owner="ann",
                sample=submitted.sample,
                request=submitted.request,
                plan=Plan(stages=()),
            )
        )
        async with asyncio.timeout(60):
            while await connection.fetchval("SELECT count(*) FROM intake.work"):  # noqa: ASYNC110 - a row says so
                await asyncio.sleep(0.02)
    finally:
        await connection.close(timeout=5)


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
