"""What the results service hears. Each handler records; what takes long is work."""

from collections.abc import Mapping

import structlog

from contracts.envelope import Message
from contracts.ids import derived
from contracts.intake import ChildrenChosen, TaskSubmitted
from contracts.machines import CaptureStored, MachineQuarantined, MachineReverted
from contracts.plugins import PluginResultProduced
from contracts.results import ArtifactStored, ReportReady
from contracts.scheduler import (
    NameResults,
    SealReport,
    TaskCancelled,
    TaskCompleted,
    TaskFact,
    TaskFailed,
    TaskPlanned,
    TaskQueued,
    TaskRequeued,
    TaskStarted,
    TaskTimedOut,
    TaskUnserviceable,
)
from services.chassis.blobs import BlobStore
from services.chassis.store import Store
from services.chassis.topology import Handler
from services.chassis.unit import Unit
from services.results import rows

SEAL = "seal"
AMEND = "amend"
TELL = "tell"
log = structlog.get_logger()

STATES: dict[type[TaskFact], str] = {
    TaskQueued: "queued",
    TaskStarted: "running",
    TaskRequeued: "queued",
    TaskCompleted: "completed",
    TaskFailed: "failed",
    TaskTimedOut: "timed_out",
    TaskCancelled: "cancelled",
    TaskUnserviceable: "unserviceable",
}


async def on_task_announced(fact: TaskSubmitted | TaskPlanned, unit: Unit, _store: Store) -> None:
    """Whose the task is, for whoever asks for its results."""
    rows.remember_task(unit, fact.task_id, fact.owner)


async def on_task_changed(fact: TaskFact, unit: Unit, _store: Store) -> None:
    """How far the task is, for whoever asks too early."""
    rows.remember_state(unit, fact.task_id, STATES[type(fact)])


async def on_machine_left(fact: MachineReverted | MachineQuarantined, unit: Unit, store: Store) -> None:
    """Nothing more comes from it; a report that waits for its packets is looked at again."""
    if fact.task_id is None:
        return
    rows.remember_departure(unit, fact.task_id, fact.machine_id, fact.epoch)
    if await rows.is_seal_waiting(store, fact.task_id):
        unit.enqueue(SEAL, fact.task_id, {"task_id": fact.task_id})


async def on_children_chosen(fact: ChildrenChosen, unit: Unit, _store: Store) -> None:
    """The report names what was found inside, and what became of it."""
    rows.remember_children(unit, fact)
    amend(unit, fact.task_id)


def amend(unit: Unit, task_id: str) -> None:
    """The task's report is looked at again, after this commit: what runs already may have looked before it."""
    unit.enqueue(AMEND, f"{task_id}:{unit.uuid().hex}", {"task_id": task_id})


def tell_parents(unit: Unit, task_id: str) -> None:
    """Whoever the task is a child of is looked at again, after this commit."""
    unit.enqueue(TELL, f"{task_id}:{unit.uuid().hex}", {"task_id": task_id})


async def do_seal_report(command: SealReport, unit: Unit, store: Store) -> None:
    """The report is ordered; one that is sealed is announced again."""
    ready = await rows.report_of(store, command.task_id)
    if ready is not None:
        say_ready(unit, ready)
        return
    rows.remember_task(unit, command.task_id, command.owner)
    rows.remember_seal(unit, command)
    unit.enqueue(SEAL, command.task_id, {"task_id": command.task_id})


async def do_name_results(command: NameResults, unit: Unit, store: Store) -> None:
    """More results are to be in the report; one that waits for them is looked at again."""
    rows.remember_named(unit, command)
    if await rows.is_seal_waiting(store, command.task_id):
        unit.enqueue(SEAL, command.task_id, {"task_id": command.task_id})


def say_ready(unit: Unit, ready: ReportReady) -> None:
    """The same fact as before under an id of its own for each order, so that a receiver who missed it hears it."""
    unit.say(ready, message_id=derived("msg", "report-ready", ready.task_id, unit.cause.message_id or ""))


class ResultRecorder:
    """Records results, and says that they can be downloaded once their bytes are seen in the store."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def on_plugin_result_produced(self, fact: PluginResultProduced, unit: Unit, store: Store) -> None:
        """The result is recorded; a report that waits for it is looked at again."""
        rows.remember_result(unit, fact)
        if await self._blobs.size(fact.blob.sha256) == fact.blob.size_bytes:
            stored = ArtifactStored(
                task_id=fact.task_id, result_id=fact.result_id, blob=fact.blob, name=rows.storable(fact.name)
            )
            unit.say(stored, message_id=derived("msg", "artifact-stored", fact.result_id))
        else:
            log.warning("result_has_no_bytes", result_id=fact.result_id, sha256=fact.blob.sha256)
        if await rows.is_seal_waiting(store, fact.task_id):
            unit.enqueue(SEAL, fact.task_id, {"task_id": fact.task_id})

    async def on_capture_stored(self, fact: CaptureStored, unit: Unit, store: Store) -> None:
        """The record of the guest's packets is an artifact; a report that waits for it is looked at again."""
        rows.remember_capture(unit, fact)
        result_id = derived("res", "capture", fact.lease_id)
        stored = ArtifactStored(task_id=fact.task_id, result_id=result_id, blob=fact.blob, name="capture.pcap")
        unit.say(stored, message_id=derived("msg", "artifact-stored", result_id))
        if await rows.is_seal_waiting(store, fact.task_id):
            unit.enqueue(SEAL, fact.task_id, {"task_id": fact.task_id})


def handlers(blobs: BlobStore) -> Mapping[type[Message], Handler]:
    """What is heard, and who hears it."""
    recorder = ResultRecorder(blobs)
    return {
        TaskSubmitted: on_task_announced,
        TaskPlanned: on_task_announced,
        ChildrenChosen: on_children_chosen,
        **dict.fromkeys(STATES, on_task_changed),
        PluginResultProduced: recorder.on_plugin_result_produced,
        CaptureStored: recorder.on_capture_stored,
        MachineReverted: on_machine_left,
        MachineQuarantined: on_machine_left,
        NameResults: do_name_results,
        SealReport: do_seal_report,
    }
