"""The results service for real: RabbitMQ, PostgreSQL, the object store and HTTP."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from contracts.blobs import BlobRef
from contracts.ids import derived
from contracts.intake import ChildDecision, ChildrenChosen
from contracts.limits import RESULTS_NAMED_MAX
from contracts.results import ArtifactStored, ReportReady, VerdictChanged
from contracts.scheduler import LostAttempt, NameResults, TaskStarted
from services.chassis.run import serve
from services.chassis.store import Store
from services.results import rows
from services.results.domain.result import Result
from services.results.main import compose
from services.results.migrations import MIGRATIONS
from services.results.settings import ResultsSettings
from tests.integration.results_bench import SECRET, YARA, Bench, connected, settings

SHORT_PATIENCE_S = 2.0
pytestmark = pytest.mark.integration


@pytest.fixture
async def bench(database_url: str, amqp_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """The service runs in this process; it has ended cleanly when the test is over."""
    async with running(settings(amqp_url, database_url, tmp_path)) as bench:
        yield bench


@pytest.fixture
async def impatient_bench(database_url: str, amqp_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """The same, with a service that does not wait long for what is missing."""
    async with running(settings(amqp_url, database_url, tmp_path, seal_patience_s=SHORT_PATIENCE_S)) as bench:
        yield bench


@asynccontextmanager
async def running(own: ResultsSettings) -> AsyncIterator[Bench]:
    """The service runs in this process; it has ended cleanly afterwards."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve("results", own, compose, migrations=MIGRATIONS, stop=stop))
        async with connected(own) as bench:
            yield bench
        stop.set()


@pytest.mark.promise("E1", "E2", "P31")
async def test_a_report_is_sealed_from_the_results_and_served_to_its_owner(bench: Bench) -> None:
    """What plugins produced becomes a readable report, its artifacts the same bytes as produced."""
    dropped = bytes(range(256)) * 5000
    await bench.submit()
    yara = await bench.produce("yara", YARA, title="YARA\0 matches")
    file = await bench.produce(
        "syscalls", dropped, stage="guest", name="dropped/1", kind="file", path='/tmp/a"\n;rm\x00.sh'
    )
    printed = await bench.produce("agent", b"hello\xff\n" * 1000, stage="guest", name="stdout", kind="bytes")
    earlier = LostAttempt(
        number=1, machine_id="linux-2", ended_at=datetime.now(UTC), outcome="guest_lost", reason="no answer for 15 s"
    )
    await bench.seal(yara, file, printed, lost_attempts=[earlier])
    [ready] = await bench.hear(ReportReady)
    assert (ready.verdict, ready.score, ready.missing_results) == ("malicious", 100, ())
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    assert report["task"]["lost_attempts"] == [earlier.model_dump(mode="json")]
    assert report["reasons"][0]["evidence"] == {
        "plugin": "yara",
        "result_id": yara.result_id,
        "pointer": "/matches/0",
    }
    [artifact, _stdout] = report["artifacts"]
    headings = [(one["name"], one["title"], one["blocks"][0]["title"]) for one in report["sections"]]
    assert headings == [("yara", "YARA\N{REPLACEMENT CHARACTER} matches", "matches"), ("stdout", "", "stdout")]
    recorded = (await bench.get(f"/tasks/{bench.task_id}/results")).json()["items"]
    assert [one["title"] for one in recorded] == ["YARA\N{REPLACEMENT CHARACTER} matches", "", ""]
    [block] = next(section["blocks"] for section in report["sections"] if section["plugin"] == "agent")
    assert (block["text"][:7], block["is_cut"]) == ("hello\N{REPLACEMENT CHARACTER}\n", True)
    download = await bench.get(f"/artifacts/{artifact['result_id']}")
    assert download.content == dropped
    assert download.headers["etag"] == f'"{hashlib.sha256(dropped).hexdigest()}"'
    assert download.headers["content-disposition"].startswith('attachment; filename="a')
    assert download.headers["x-content-type-options"] == "nosniff"
    assert download.headers["content-type"] == "application/octet-stream"
    assert {fact.result_id for fact in await bench.hear(ArtifactStored, 3)} == {
        result.result_id for result in (yara, file, printed)
    }


@pytest.mark.promise("E1")
async def test_a_part_of_an_artifact_can_be_had(bench: Bench) -> None:
    """Ranges, conditional requests and impossible ranges are answered as HTTP says."""
    content = bytes(range(256)) * 20
    await bench.submit()
    fact = await bench.produce("syscalls", content, kind="bytes", name="trace")
    await bench.hear(ArtifactStored)
    path, tag = f"/artifacts/{fact.result_id}", f'"{hashlib.sha256(content).hexdigest()}"'
    part = await bench.get(path, Range="bytes=100-199")
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    assert (await bench.get(path, Range="bytes=-5")).content == content[-5:]
    assert (await bench.get(path, Range="bytes=99999-")).status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE
    assert (await bench.get(path, **{"If-None-Match": tag})).status_code == httpx.codes.NOT_MODIFIED
    changed = await bench.get(path, Range="bytes=0-0", **{"If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, content)


async def test_the_interface_describes_itself_and_headers_can_be_had_alone(bench: Bench) -> None:
    """The OpenAPI document names every route, and HEAD answers like GET without the bytes."""
    await bench.submit()
    fact = await bench.produce("syscalls", b"trace", kind="bytes")
    await bench.hear(ArtifactStored)
    paths = (await bench.get("/openapi/results.json")).json()["paths"]
    assert {path for path in paths if path.split("/")[3] in ("tasks", "artifacts")} == {
        "/api/v1/tasks/{task_id}/report",
        "/api/v1/tasks/{task_id}/results",
        "/api/v1/tasks/{task_id}/artifacts",
        "/api/v1/artifacts/{result_id}",
    }
    path = f"/api/v1/artifacts/{fact.result_id}"
    head = await bench.http.head(path, headers={"X-Malbox-Subject": "ann", "X-Malbox-Gateway": SECRET}, timeout=10)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "5")


async def test_a_long_list_of_results_comes_in_pages(bench: Bench) -> None:
    """Each page says where the next one begins, and every result is on exactly one."""
    await bench.submit()
    made = [(await bench.produce("syscalls", b"x", kind="bytes", name=f"dropped/{n}")).result_id for n in range(5)]
    await bench.hear(ArtifactStored, 5)
    seen: list[str] = []
    after: int | None = 0
    for _ in range(3):
        page = (await bench.get(f"/tasks/{bench.task_id}/artifacts?limit=2&after={after}")).json()
        seen += [item["result_id"] for item in page["items"]]
        after = page["next"]
    assert after is None
    assert sorted(seen) == sorted(made)
    assert (await bench.get(f"/tasks/{bench.task_id}/artifacts?limit=0")).json()["code"] == "invalid_request"


@pytest.mark.promise("P39")
async def test_only_the_owner_and_an_administrator_may_see_a_task(bench: Bench) -> None:
    """A stranger gets the answer for what does not exist; without the gateway's word there is no answer at all."""
    await bench.submit(owner="ann")
    fact = await bench.produce("yara", YARA)
    await bench.hear(ArtifactStored)
    await bench.seal(fact)
    await bench.hear(ReportReady)
    for path in (
        f"/tasks/{bench.task_id}/report",
        f"/tasks/{bench.task_id}/results",
        f"/tasks/{bench.task_id}/artifacts",
        f"/artifacts/{fact.result_id}",
    ):
        assert (await bench.get(path)).status_code == httpx.codes.OK
        assert (await bench.get(path, subject="eve", roles="admin")).status_code == httpx.codes.OK
        refused = await bench.get(path, subject="eve")
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
        assert (await bench.http.get(f"/api/v1{path}", timeout=10)).status_code == httpx.codes.UNAUTHORIZED


async def test_a_report_that_is_not_ready_says_how_far_the_task_is(bench: Bench) -> None:
    """Asking early is answered with the state, not with an empty report."""
    await bench.submit()
    await bench.tell(TaskStarted(task_id=bench.task_id, machine_id="linux-1", attempt=1))
    for _ in range(200):
        answer = await bench.get(f"/tasks/{bench.task_id}/report")
        if answer.json().get("state") == "running":
            break
        await asyncio.sleep(0.05)
    assert (answer.status_code, answer.json()["code"]) == (404, "report_not_ready")
    assert "running" in answer.json()["detail"]


@pytest.mark.promise("P15", "E2")
async def test_the_order_of_messages_and_their_repetition_change_nothing(bench: Bench) -> None:
    """Sealing ordered before the results arrive waits for them; repeated, it announces the same report again."""
    fact = bench.result("yara", await bench.blobs.put_bytes(YARA))
    await bench.seal(fact, message_id="order-1")
    await asyncio.sleep(0.3)
    assert not bench.said(ReportReady)
    await bench.tell(fact)
    await bench.tell(fact)
    [first] = await bench.hear(ReportReady)
    assert first.missing_results == ()
    await bench.seal(fact, message_id="order-1")
    await bench.seal(fact, message_id="order-2")
    await bench.hear(ReportReady, 2)
    await asyncio.sleep(0.5)
    assert bench.said(ReportReady) == [first, first]
    page = (await bench.get(f"/tasks/{bench.task_id}/results")).json()
    assert [item["result_id"] for item in page["items"]] == [fact.result_id]


@pytest.mark.promise("G8")
async def test_a_result_whose_bytes_are_lost_is_waited_for_and_then_named(impatient_bench: Bench) -> None:
    """A report is not sealed over missing bytes until patience ends; then it says exactly what is missing."""
    bench = impatient_bench
    await bench.submit()
    there = await bench.produce("yara", YARA)
    lost = bench.result("identity", BlobRef(sha256="cd" * 32, size_bytes=10))
    never = bench.result("elf", BlobRef(sha256="ef" * 32, size_bytes=10))
    await bench.tell(lost)
    await bench.until_known(there, lost)
    ordered_at = asyncio.get_running_loop().time()
    await bench.seal(there, lost, never)
    [ready] = await bench.hear(ReportReady)
    assert asyncio.get_running_loop().time() - ordered_at >= SHORT_PATIENCE_S
    assert set(ready.missing_results) == {lost.result_id, never.result_id}
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    reasons = {error["result_id"]: error["reason"] for error in report["errors"]}
    assert "10 bytes are not in the object store" in reasons[lost.result_id]
    assert "never arrived" in reasons[never.result_id]
    assert (await bench.get(f"/artifacts/{lost.result_id}")).status_code == httpx.codes.GONE


@pytest.mark.promise("G8")
async def test_a_report_waits_for_results_that_are_named_beside_its_order(bench: Bench) -> None:
    """It is not sealed from those that the order has room for; in what order the names come does not matter."""
    await bench.submit()
    named = await bench.produce("identity", b"{}")
    others = [await bench.produce("agent", b"x", name=f"file/{number}", kind="bytes") for number in range(3)]
    yara = await bench.produce("yara", YARA)
    ids = [one.result_id for one in (*others, yara)]
    await bench.tell(NameResults(task_id=bench.task_id, part=2, result_ids=tuple(ids[2:])))
    await bench.seal(named, more_results=len(ids))
    await bench.hear(ArtifactStored, 5)
    await asyncio.sleep(1)
    assert not bench.said(ReportReady)
    await bench.tell(NameResults(task_id=bench.task_id, part=1, result_ids=tuple(ids[:2])))
    [ready] = await bench.hear(ReportReady)
    assert (ready.verdict, ready.missing_results, ready.missing_more) == ("malicious", (), 0)
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    assert [artifact["result_id"] for artifact in report["artifacts"]] == ids[:3]
    assert report["errors"] == []


@pytest.mark.promise("G8")
async def test_results_that_are_never_named_are_counted(impatient_bench: Bench) -> None:
    """A task is not complete because nobody said what is missing."""
    bench = impatient_bench
    await bench.submit()
    there = await bench.produce("yara", YARA)
    await bench.until_known(there)
    await bench.seal(there, more_results=7)
    [ready] = await bench.hear(ReportReady)
    assert (ready.missing_results, ready.missing_more) == ((), 7)
    [error] = (await bench.get(f"/tasks/{bench.task_id}/report")).json()["errors"]
    assert error["reason"].startswith("7 results of the task were never named")


@pytest.mark.promise("G8")
async def test_the_loss_of_very_many_results_can_be_said(impatient_bench: Bench) -> None:
    """As many are named as a message holds, the others are counted, also when it is said again."""
    bench = impatient_bench
    lost = tuple(derived("res", bench.task_id, number) for number in range(2 * RESULTS_NAMED_MAX))
    await bench.submit()
    for part in (1, 2):
        named = lost[(part - 1) * RESULTS_NAMED_MAX : part * RESULTS_NAMED_MAX]
        await bench.tell(NameResults(task_id=bench.task_id, part=part, result_ids=named))
    await bench.seal(more_results=len(lost))
    await bench.hear(ReportReady)
    await bench.seal(more_results=len(lost))
    for ready in await bench.hear(ReportReady, 2):
        assert (ready.missing_results, ready.missing_more) == (lost[:RESULTS_NAMED_MAX], RESULTS_NAMED_MAX)
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    assert tuple(report["missing_results"]) == lost


@pytest.mark.promise("P30", "P35")
async def test_a_result_that_is_not_what_it_should_be_costs_only_itself(bench: Bench) -> None:
    """Garbage instead of JSON is an error in the report, and the rest of the evidence counts."""
    garbage = await bench.produce("behaviour", b"\xff\x00{[", stage="post")
    yara = await bench.produce("yara", YARA)
    await bench.seal(garbage, yara)
    [ready] = await bench.hear(ReportReady)
    assert ready.verdict == "malicious"
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    assert [error["result_id"] for error in report["errors"]] == [garbage.result_id]


@pytest.mark.promise("E1", "F6")
async def test_a_report_waits_for_the_packets_of_a_machine_that_had_a_network(bench: Bench) -> None:
    """What crossed the guest's card is an artifact of the report, and is there before the report is sealed."""
    await bench.submit()
    yara = await bench.produce("yara", YARA)
    await bench.seal(yara, request={"route": "simulated"})
    await bench.hear(ArtifactStored)
    content = bytes(24)
    await bench.captured(content)
    [ready] = await bench.hear(ReportReady)
    assert ready.missing_results == ()
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    [artifact] = report["artifacts"]
    assert (artifact["name"], artifact["plugin"]) == ("capture.pcap", "network")
    assert (await bench.get(f"/artifacts/{artifact['result_id']}")).content == content


@pytest.mark.promise("F6")
async def test_packets_that_are_recorded_while_a_report_is_looked_at_are_in_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever saw no record of packets yet does not take the one that came since for seen."""
    seen = rows.captures_of

    async def overtaken(store: Store, task_id: str) -> list[Result]:
        found = await seen(store, task_id)
        if not found:
            await bench.captured(bytes(24))
            await bench.hear(ArtifactStored, 2)
        return found

    monkeypatch.setattr(rows, "captures_of", overtaken)
    await bench.submit()
    await bench.seal(await bench.produce("yara", YARA), request={"route": "simulated"})
    await bench.hear(ReportReady)
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    assert [artifact["name"] for artifact in report["artifacts"]] == ["capture.pcap"]


@pytest.mark.promise("F6")
async def test_a_report_waits_for_packets_no_longer_than_until_the_machine_left(bench: Bench) -> None:
    """A machine that is clean has said what it recorded; where it said nothing there was nothing."""
    await bench.submit()
    yara = await bench.produce("yara", YARA)
    await bench.seal(yara, request={"route": "simulated"})
    await bench.hear(ArtifactStored)
    assert bench.said(ReportReady) == []
    await bench.left()
    await bench.hear(ReportReady)
    report = (await bench.get(f"/tasks/{bench.task_id}/report")).json()
    assert report["artifacts"] == []


@pytest.mark.promise("P15", "E1")
async def test_a_child_that_is_judged_late_makes_its_parents_no_less_than_it_is(bench: Bench) -> None:
    """The grandparent's report was sealed long before: each gets a revision, with a reason that points to the bytes."""
    chain = [bench.task_id, derived("tsk", bench.task_id, "child"), derived("tsk", bench.task_id, "grandchild")]
    parents = [None, *chain[:-1]]
    inside = [
        bench.result("archives", BlobRef(sha256="0" * 64, size_bytes=0), name="children/0001", task_id=one)
        for one in chain
    ]
    for task_id, parent, place in zip(chain[:2], parents[:2], inside[:2], strict=True):
        bench.task_id = task_id
        await bench.submit()
        await bench.seal(await bench.produce("yara", b"{}"), parent=parent)
        child = ChildDecision(
            result_id=place.result_id,
            plugin="archives",
            name="a.sh",
            sha256="c" * 64,
            task_id=chain[chain.index(task_id) + 1],
        )
        for _ in range(2):
            await bench.tell(ChildrenChosen(task_id=task_id, submission_id=derived("sub", task_id), children=(child,)))
    await bench.hear(ReportReady, 2)
    assert bench.said(VerdictChanged) == []
    bench.task_id = chain[2]
    await bench.submit()
    await bench.seal(await bench.produce("yara", YARA), parent=chain[1])
    changed = await bench.hear(VerdictChanged, 2)
    assert [(fact.task_id, fact.verdict, fact.score) for fact in changed] == [
        (chain[1], "malicious", 70),
        (chain[0], "malicious", 70),
    ]
    assert changed[0].reason == "contains a.sh, which is malicious"
    report = (await bench.get(f"/tasks/{chain[0]}/report")).json()
    assert (report["verdict"], report["score"]) == ("malicious", 70)
    assert report["reasons"][0]["evidence"] == {"plugin": "archives", "result_id": inside[0].result_id, "pointer": ""}
    [child_told] = report["children"]
    assert (child_told["task_id"], child_told["verdict"], child_told["score"]) == (chain[1], "malicious", 70)
    inner = (await bench.get(f"/tasks/{chain[1]}/report")).json()
    assert inner["task"]["parent"]["task_id"] == chain[0]
