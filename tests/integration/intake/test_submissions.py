"""Intake against a real database and a real broker: what is accepted is durable and said."""

import asyncio
from typing import Any

import asyncpg
import pytest

from contracts.envelope import Message
from contracts.intake import SampleStored, TaskCancellationRequested, TaskSubmitted
from contracts.machines import MachineRegistered, MachineRetired
from contracts.planning import Plan
from contracts.plugins import PluginRegistered, PluginRemoved
from contracts.scheduler import TaskPlanned
from services.chassis.blobs import BlobStore
from tests.integration.intake_desk import MACHINE, PLUGIN, Desk

pytestmark = pytest.mark.integration


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


async def test_what_its_owners_withdraw_can_no_longer_be_asked_for(desk: Desk) -> None:
    """A removed plugin and a retired machine are unknown again, even when an old message comes late."""
    await desk.say(registered("linux-2", epoch=0))
    await desk.say(MachineRetired(machine_id="linux-1", epoch=3, reason="sold"))
    await desk.say(PluginRemoved(name=PLUGIN.name))
    await desk.until_known(lambda known: not known["plugins"] and names(known) == {"linux-2"})
    await desk.say(registered("linux-1", epoch=2))
    await desk.say(registered("linux-3", epoch=0))
    assert names(await desk.until_known(lambda known: "linux-3" in names(known))) == {"linux-2", "linux-3"}


def registered(machine_id: str, *, epoch: int) -> MachineRegistered:
    """The machine is known as of that epoch."""
    machine = MACHINE.model_copy(update={"machine_id": machine_id})
    return MachineRegistered(machine_id=machine_id, epoch=epoch, machine=machine)


def names(known: dict[str, Any]) -> set[str]:
    """The machines that a submission may ask for."""
    return {machine["machine_id"] for machine in known["machines"]}


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


@pytest.mark.promise("P3")
@pytest.mark.parametrize(
    "fact",
    [PluginRegistered(manifest=PLUGIN), MachineRegistered(machine_id="linux-2", epoch=0, machine=MACHINE)],
    ids=["plugin", "machine"],
)
async def test_what_nobody_could_plan_is_said_again_when_the_catalogue_comes(
    desk: Desk, database_url: str, fact: Message
) -> None:
    """A service that was away for long announces what it has: tasks do not wait for the next repetition."""
    await desk.submit()
    first = [await desk.next_fact() for _ in range(2)]
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        await connection.execute("UPDATE intake.work SET due_at = now() + interval '1 hour'")
    finally:
        await connection.close(timeout=5)
    await desk.say(fact)
    assert await desk.next_fact() == next(pair for pair in first if isinstance(pair[1], TaskSubmitted))
