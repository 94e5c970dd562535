"""The parts of a report, put together from a case."""

from contracts.plugins import RunError
from contracts.scheduler import LostAttempt, SealReport
from malbox.sdk.techniques import NAMES, valid
from services.results.assembly import conduct
from services.results.assembly.indicators import indicators
from services.results.assembly.reading import Reader, unreadable
from services.results.domain import report as r
from services.results.domain.bounds import (
    ERRORS_MAX,
    EVIDENCE_MAX,
    LOST_ATTEMPTS_SHOWN_MAX,
    MATCHES_SHOWN_MAX,
    REASONS_SHOWN_MAX,
    cut,
)
from services.results.domain.case import Case, evidence
from services.results.domain.inputs import Behaviour, Findings, Identity, Matches, SeenMatch
from services.results.domain.result import Result
from services.results.policy import Matched, Noticed, Observed, judge

NOT_RUN = "The sample was not run: no machine took part. What is said here comes from looking at its bytes."
EMULATED = (
    "The guest ran in QEMU's emulator, without hardware virtualisation. QEMU promises no isolation in this mode: "
    "emulation is not a security boundary, and the host relied on its other fences only."
)
VIRTUALISED = "The guest ran under hardware virtualisation (KVM), which QEMU supports as a security boundary."
UNDECLARED = "How the guest's processor was provided is not known, so no security boundary is claimed."


Ruled = tuple[Matches, Result]
"""What rules said, and in which result."""


def assemble(case: Case) -> r.Report:
    """The report of the case."""
    reader = Reader(case)
    identity = next(iter(reader.inputs("identity", Identity)), None)
    observed = _observed(reader)
    behaviour = observed.behaviour if observed else Behaviour()
    ruled = reader.ruled()
    matched = _matched(ruled)
    findings = reader.findings()
    judgement = judge(matched, has_run=has_run(behaviour), noticed=_noticed(findings))
    reasons, more_reasons = cut(judgement.reasons, REASONS_SHOWN_MAX)  # heaviest first: those behind have no points
    sample = _sample(case.seal, identity[0] if identity else None)
    matches, more_matches = cut([_match(one) for one in matched], MATCHES_SHOWN_MAX)
    processes, more_processes = conduct.process_tree(behaviour)
    events, more_events = conduct.timeline(behaviour)
    attempts, more_attempts = conduct.network(behaviour)
    files, more_files = conduct.files(behaviour, case.results)
    found, more_found = indicators(sample, identity, observed, case.results, findings)
    sections = reader.sections()
    errors, more_errors = cut([*_errors(case), *reader.errors], ERRORS_MAX)
    seal = case.seal
    cut_at_source, more_at_source = cut(_cut_at_source(case, observed, ruled), ERRORS_MAX)
    lost_attempts, more_attempts_lost = cut(seal.lost_attempts, LOST_ATTEMPTS_SHOWN_MAX)
    return r.Report(
        task=r.Task(
            task_id=seal.task_id,
            submission_id=seal.submission_id,
            owner=seal.owner,
            attempts=seal.attempts,
            attempt_reasons=seal.attempt_reasons,
            lost_attempts=tuple(_lost_attempt(one) for one in lost_attempts),
            parent=seal.parent,
        ),
        sample=sample,
        request=seal.request,
        environment=_environment(seal),
        outcome=seal.outcome,
        outcome_reason=seal.reason,
        ended_by=seal.ended_by,
        timings=_timings(case),
        verdict=judgement.verdict,
        score=judgement.score,
        reasons=reasons,
        indicators=found,
        techniques=_techniques(judgement.reasons, matched),
        processes=processes,
        timeline=events,
        network=attempts,
        files=files,
        matches=matches,
        sections=sections,
        artifacts=_artifacts(case),
        errors=errors,
        truncated=r.Truncation(
            processes=more_processes,
            timeline=more_events,
            files=more_files,
            network=more_attempts,
            indicators=more_found,
            matches=more_matches,
            reasons=more_reasons,
            errors=more_errors,
            lost_attempts=more_attempts_lost,
            at_source=cut_at_source,
            at_source_more=more_at_source,
        ),
        missing_results=tuple(case.missing),
    )


def has_run(behaviour: Behaviour) -> bool:
    """Whether at least one process of the sample was seen executing a program."""
    return any(process.exe or process.argv for process in behaviour.processes)


def _observed(reader: Reader) -> Observed | None:
    for behaviour, result in reader.inputs("behaviour", Behaviour):
        return Observed(behaviour, result.plugin, result.result_id)
    return None


def _matched(ruled: list[Ruled]) -> list[Matched]:
    return [
        Matched(match, tuple(evidence(result, pointer) for pointer in _places(index, match)))
        for said, result in ruled
        for index, match in enumerate(said.matches)
    ]


def _places(index: int, match: SeenMatch) -> list[str]:
    """JSON pointers to what the match rests on, or to the match where it rests on bytes."""
    facts = [f"/matches/{index}/evidence/{number}" for number in range(len(match.evidence))]
    return facts[:EVIDENCE_MAX] or [f"/matches/{index}"]


def _noticed(findings: list[tuple[Findings, Result]]) -> list[Noticed]:
    return [
        Noticed(trait, evidence(result, f"/traits/{index}"))
        for found, result in findings
        for index, trait in enumerate(found.traits)
    ]


def _match(matched: Matched) -> r.RuleMatch:
    match = matched.match
    return r.RuleMatch(
        rule=match.rule,
        description=match.description,
        severity=match.severity,
        techniques=valid(match.attack),
        strings=len(match.strings) + len(match.evidence) + match.more,
        evidence=matched.evidence[0],
    )


def _sample(seal: SealReport, identity: Identity | None) -> r.Sample:
    known = identity or Identity()
    return r.Sample(
        name=seal.sample.name,
        sha256=seal.sample.blob.sha256,
        size_bytes=seal.sample.blob.size_bytes,
        md5=known.md5,
        sha1=known.sha1,
        tlsh=known.tlsh,
        ssdeep=known.ssdeep,
        mime=known.mime,
        type=known.description,
        package=known.package,
    )


def _environment(seal: SealReport) -> r.Environment:
    if seal.machine_id is None:
        statement = NOT_RUN
    else:
        statement = {"kvm": VIRTUALISED, "tcg": EMULATED}.get(seal.acceleration, UNDECLARED)
    return r.Environment(
        machine_id=seal.machine_id,
        platform=seal.platform,
        acceleration=seal.acceleration,
        is_security_boundary=seal.machine_id is not None and seal.acceleration == "kvm",
        statement=statement,
    )


def _timings(case: Case) -> r.Timings:
    total_s = (case.sealed_at - case.seal.submitted_at).total_seconds()
    return r.Timings(
        submitted_at=case.seal.submitted_at,
        observed_from=case.seal.observed_from,
        sealed_at=case.sealed_at,
        total_s=max(0.0, total_s),
        phases=case.seal.phases,
    )


def _techniques(reasons: tuple[r.Reason, ...], matched: list[Matched]) -> tuple[r.Technique, ...]:
    sources: dict[str, dict[str, None]] = {}
    named = [(reason.techniques, reason.name) for reason in reasons]
    named += [(valid(one.match.attack), one.match.rule) for one in matched]
    for techniques, source in named:
        for technique in techniques:
            sources.setdefault(technique, {})[source] = None
    return tuple(
        r.Technique(id=technique, name=NAMES.get(technique), sources=tuple(by))
        for technique, by in sorted(sources.items())
    )


def _artifacts(case: Case) -> tuple[r.Artifact, ...]:
    """What is neither JSON, which is in the sections, nor lost."""
    kept = (result for result in case.results if result.kind != "json" and result.result_id not in case.missing)
    return tuple(_artifact(result) for result in kept)


def _artifact(result: Result) -> r.Artifact:
    return r.Artifact(
        result_id=result.result_id,
        plugin=result.plugin,
        stage=result.stage,
        attempt=result.attempt,
        name=result.name,
        kind=result.kind,
        media_type=result.media_type,
        size_bytes=result.size_bytes,
        sha256=result.sha256,
        path=result.path,
        is_truncated=result.is_truncated,
        href=result.href,
        title=result.title,
    )


def _errors(case: Case) -> list[r.ReportError]:
    """What the task, the store and the plugins have to say; lost evidence first."""
    by_id = {result.result_id: result for result in case.results}
    lost = [_lost(result_id, reason, by_id.get(result_id)) for result_id, reason in case.missing.items()]
    unread = [unreadable(by_id[result_id], reason) for result_id, reason in case.unreadable.items()]
    task = [] if case.seal.outcome == "completed" or not case.seal.reason else [_of_task(case.seal)]
    runs = [_of_run(error) for error in case.seal.errors]
    return [*task, *([_unnamed(case.unnamed)] if case.unnamed else []), *lost, *runs, *unread]


def _of_run(error: RunError) -> r.ReportError:
    return r.ReportError(
        source="plugin",
        stage=error.stage,
        plugin=error.plugin,
        result_id=None,
        outcome=error.outcome,
        reason=error.reason,
    )


def _lost_attempt(lost: LostAttempt) -> r.LostAttempt:
    return r.LostAttempt(
        number=lost.number,
        machine_id=lost.machine_id,
        began_at=lost.began_at,
        ended_at=lost.ended_at,
        outcome=lost.outcome,
        reason=lost.reason,
        errors=tuple(_of_run(error) for error in lost.errors),
        errors_left_out=lost.errors_left_out,
    )


def _unnamed(count: int) -> r.ReportError:
    reason = f"{count} results of the task were never named to this service: the list of its results has what came"
    return r.ReportError(source="task", stage=None, plugin=None, result_id=None, outcome="missing", reason=reason)


def _lost(result_id: str, reason: str, result: Result | None) -> r.ReportError:
    return r.ReportError(
        source="result",
        stage=result.stage if result else None,
        plugin=result.plugin if result else None,
        result_id=result_id,
        outcome="missing",
        reason=f"{result.plugin}/{result.name}: {reason}" if result else reason,
    )


def _of_task(seal: SealReport) -> r.ReportError:
    return r.ReportError(
        source="task", stage=None, plugin=None, result_id=None, outcome=seal.outcome, reason=seal.reason
    )


def _cut_at_source(case: Case, observed: Observed | None, ruled: list[Ruled]) -> list[str]:
    names = [f"{result.plugin}/{result.name}" for result in case.results if result.is_truncated]
    if observed is not None and observed.behaviour.is_truncated:
        names.append("behaviour")
    names += [f"{result.plugin}/{result.name}" for said, result in ruled if said.is_truncated]
    return names
