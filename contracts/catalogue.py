"""Every message there is, found by its CloudEvents type."""

from contracts import intake, machines, plugins, results, scheduler
from contracts.envelope import Command, Envelope, EnvelopeError, Message

FACTS: tuple[type[Message], ...] = (
    intake.SampleStored,
    intake.TaskSubmitted,
    intake.ChildrenChosen,
    intake.TaskCancellationRequested,
    scheduler.TaskPlanned,
    scheduler.TaskQueued,
    scheduler.TaskStarted,
    scheduler.TaskRequeued,
    scheduler.TaskCompleted,
    scheduler.TaskFailed,
    scheduler.TaskTimedOut,
    scheduler.TaskCancelled,
    scheduler.TaskUnserviceable,
    machines.MachineRegistered,
    machines.MachineProvisioned,
    machines.MachineLeased,
    machines.CaptureStored,
    machines.LeaseRefused,
    machines.LeaseExpired,
    machines.MachineReleased,
    machines.MachineReverting,
    machines.MachineReverted,
    machines.RevertFailed,
    machines.MachineQuarantined,
    machines.MachineWithdrawn,
    machines.MachineRestored,
    machines.MachineDrifted,
    machines.MachineRetired,
    plugins.PluginRegistered,
    plugins.PluginRejected,
    plugins.PluginRemoved,
    plugins.PluginStageStarted,
    plugins.PluginStageCompleted,
    plugins.PluginStageFailed,
    plugins.PluginStageSkipped,
    plugins.ChildrenFound,
    plugins.PluginStarted,
    plugins.PluginFinished,
    plugins.PluginResultProduced,
    plugins.SampleStarted,
    plugins.SampleExited,
    plugins.ObservationEnded,
    plugins.GuestConnected,
    plugins.GuestLost,
    plugins.LeaseBeat,
    results.ArtifactStored,
    results.ReportReady,
    results.VerdictChanged,
)
COMMANDS: tuple[type[Command], ...] = (
    scheduler.LeaseMachine,
    scheduler.ReleaseMachine,
    scheduler.RunStage,
    scheduler.CancelStage,
    scheduler.NameResults,
    scheduler.SealReport,
)
BY_TYPE: dict[str, type[Message]] = {message.type_name(): message for message in (*FACTS, *COMMANDS)}


def unwrap(envelope: Envelope) -> Message:
    """The message in an envelope. Raises EnvelopeError for an unknown type or a payload that does not fit it."""
    message = BY_TYPE.get(envelope.type)
    if message is None:
        raise EnvelopeError(f"unknown message type {envelope.type!r}")
    try:
        return message.model_validate(envelope.data)
    except ValueError as error:
        raise EnvelopeError(f"{envelope.type} does not fit its schema: {error}") from error
