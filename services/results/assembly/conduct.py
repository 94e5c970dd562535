"""What the sample did, as the report shows it: its process tree, what happened when, the files, the network."""

from collections import defaultdict
from collections.abc import Mapping

from services.results.domain.bounds import (
    FILES_SHOWN_MAX,
    NETWORK_SHOWN_MAX,
    PIDS_SHOWN_MAX,
    PROCESSES_SHOWN_MAX,
    TIMELINE_SHOWN_MAX,
    cut,
)
from services.results.domain.inputs import Behaviour, SeenFile, SeenProcess
from services.results.domain.report import FileTouched, NetworkAttempt, Process, TimelineEvent
from services.results.domain.result import Result


def process_tree(behaviour: Behaviour) -> tuple[tuple[Process, ...], int]:
    """The processes, each after its parent, and how many more there were."""
    children, roots = _families(behaviour.processes)
    shown: list[Process] = []
    waiting = [(index, 0) for index in reversed(roots)]
    while waiting and len(shown) < PROCESSES_SHOWN_MAX:
        index, depth = waiting.pop()
        shown.append(_process(behaviour.processes[index], depth))
        waiting.extend((child, depth + 1) for child in reversed(children[index]))
    return tuple(shown), len(behaviour.processes) - len(shown)


def _families(processes: list[SeenProcess]) -> tuple[Mapping[int, list[int]], list[int]]:
    """Children by their parent's place, and the places of those without one.

    A pid may be used again, and a guest may name any parent: only a process that stands earlier is a parent, so the
    tree has no cycle.
    """
    children: defaultdict[int, list[int]] = defaultdict(list)
    roots: list[int] = []
    place_by_pid: dict[int, int] = {}
    for place, process in enumerate(processes):
        parent = None if process.ppid is None else place_by_pid.get(process.ppid)
        if parent is None:
            roots.append(place)
        else:
            children[parent].append(place)
        place_by_pid[process.pid] = place
    return children, roots


def _process(seen: SeenProcess, depth: int) -> Process:
    return Process(
        pid=seen.pid,
        ppid=seen.ppid,
        depth=depth,
        exe=seen.exe,
        argv=tuple(seen.argv),
        started_at_s=seen.started_at_s,
        ended_at_s=seen.ended_at_s,
        exit_code=seen.exit_code,
        signal=seen.signal,
    )


def timeline(behaviour: Behaviour) -> tuple[tuple[TimelineEvent, ...], int]:
    """The first events in the order of their time, and how many more there were."""
    events = sorted(behaviour.timeline, key=lambda event: event.at_s)
    shown, more = cut(events, TIMELINE_SHOWN_MAX)
    return tuple(
        TimelineEvent(at_s=event.at_s, pid=event.pid, event=event.event, detail=event.detail) for event in shown
    ), more


def network(behaviour: Behaviour) -> tuple[tuple[NetworkAttempt, ...], int]:
    """The attempts to reach something, and how many more there were."""
    shown, more = cut(behaviour.network, NETWORK_SHOWN_MAX)
    return tuple(
        NetworkAttempt(
            at_s=seen.at_s,
            pid=seen.pid,
            family=seen.family,
            protocol=seen.protocol,
            address=seen.address,
            port=seen.port,
            query=seen.query,
            outcome=seen.outcome,
            count=seen.count,
        )
        for seen in shown
    ), more


def files(behaviour: Behaviour | None, results: tuple[Result, ...]) -> tuple[tuple[FileTouched, ...], int]:
    """The files that were touched, those whose bytes were kept first, and how many more there were."""
    kept = {result.path: result for result in results if result.path and result.kind == "file"}
    seen = behaviour.files if behaviour else []
    touched = [_file(file, kept.get(file.path)) for file in seen]
    known = {file.path for file in seen}
    only_kept = [SeenFile(path=path, actions=["collected"]) for path in kept if path not in known]
    touched += [_file(file, kept[file.path]) for file in only_kept]
    return cut(sorted(touched, key=lambda file: file.result_id is None), FILES_SHOWN_MAX)


def _file(seen: SeenFile, kept: Result | None) -> FileTouched:
    pids, more_pids = cut(seen.pids, PIDS_SHOWN_MAX)
    return FileTouched(
        path=seen.path,
        actions=tuple(seen.actions),
        pids=pids,
        more_pids=more_pids,
        errors=tuple(seen.errors),
        result_id=kept.result_id if kept else None,
        sha256=kept.sha256 if kept else None,
        size_bytes=kept.size_bytes if kept else None,
    )
