"""Intake against a real database and a real broker: what is found inside samples."""

import asyncio
import hashlib

import pytest

from contracts.blobs import BlobRef
from contracts.ids import derived
from contracts.intake import ChildrenChosen, TaskCancellationRequested, TaskSubmitted
from contracts.plugins import ChildrenFound, FoundChild
from tests.integration.intake_desk import Desk

pytestmark = pytest.mark.integration


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
