"""The whole report on a terminal, what matters most first."""

from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from cli.render.conduct import files, network, processes, timeline
from cli.render.escape import safe
from cli.render.layout import facts, grid, items_of, more, number_of, object_of, part, size, texts_of
from cli.render.sections import sections

STYLES = {"malicious": "bold white on red", "suspicious": "bold black on yellow", "benign": "bold white on green"}
MEANINGS = {
    "malicious": "what was found is what malware does",
    "suspicious": "some of what was found is what malware does",
    "benign": "it was seen running, and nothing that counts was found",
    "unknown": "too little was found, and it was not seen running: this says nothing about the sample",
}
ENDINGS = {
    "sample_exit": "the sample and all its children ended",
    "window": "the time asked for was over",
    "timeout": "the hard limit was reached",
    "plugin": "a plugin kept it going beyond the time asked for, and let go",
    "cancelled": "somebody cancelled it",
    "guest_lost": "the guest no longer answered",
}
LOSSES = {
    "failed": "failed",
    "guest_lost": "guest lost",
    "lease_lost": "machine lost",
    "not_ready": "machine not ready",
}
LOST_ERRORS_SHOWN_MAX = 5
REASONS_SHOWN_MAX = 20
MATCHES_SHOWN_MAX = 20
INDICATORS_SHOWN_MAX = 40
ERRORS_SHOWN_MAX = 30
CHILDREN_SHOWN_MAX = 64


def render_report(report: dict[str, Any]) -> RenderableType:
    """The report as rich text. Every string in it is escaped, whoever it came from."""
    parts = (
        _verdict(report),
        _errors(report),
        _lost_attempts(report),
        _sample(report),
        _children(report),
        _run(report),
        processes(report),
        timeline(report),
        network(report),
        files(report),
        _matches(report),
        _techniques(report),
        _indicators(report),
        sections(report),
        _footer(report),
    )
    return Group(*(one for one in parts if one is not None))


def _verdict(report: dict[str, Any]) -> RenderableType:
    verdict = str(report.get("verdict", "unknown"))
    headline = Text.assemble(
        safe(f" {verdict.upper()} ", style=STYLES.get(verdict, "bold black on white")),
        (f"  {number_of(report, 'score')}/100", "bold"),
        (f"  {MEANINGS.get(verdict, '')}", ""),
    )
    reasons = items_of(report, "reasons")
    table = grid("bold", "", first_width=4)
    for reason in reasons[:REASONS_SHOWN_MAX]:
        table.add_row(f"{number_of(reason, 'points'):+d}", _reason(reason))
    body: list[RenderableType] = [headline]
    if reasons:
        cut = number_of(object_of(report, "truncated"), "reasons")
        body += [Text(""), table, *more(min(len(reasons), REASONS_SHOWN_MAX), reasons, cut, "reasons")]
    name = safe(object_of(report, "sample").get("name"), style="bold", limit_chars=80)
    return Panel(Group(*body), title=name, title_align="left", border_style="dim", padding=(1, 2))


def _reason(reason: dict[str, Any]) -> Text:
    evidence = object_of(reason, "evidence")
    others = len(items_of(reason, "more_evidence")) + number_of(reason, "evidence_left_out")
    where = f"{evidence.get('plugin', '')} {evidence.get('pointer', '')}" + (f" and {others} more" if others else "")
    full = "" if reason.get("points") == reason.get("weight") else f" (alone: {number_of(reason, 'weight')})"
    techniques = " ".join(texts_of(reason, "techniques"))
    return Text.assemble(
        safe(reason.get("why")), (full, "dim"), "  ", safe(techniques, style="magenta"), "\n", safe(where, style="dim")
    )


def _errors(report: dict[str, Any]) -> RenderableType | None:
    errors = items_of(report, "errors")
    if not errors:
        return None
    table = grid("", "", "")
    for error in errors[:ERRORS_SHOWN_MAX]:
        place = "/".join(str(error[key]) for key in ("stage", "plugin") if error.get(key))
        style = "dim" if error.get("outcome") == "skipped" else "bold red"
        table.add_row(safe(error.get("outcome"), style=style), safe(place), safe(error.get("reason")))
    cut = number_of(object_of(report, "truncated"), "errors")
    rest = more(min(len(errors), ERRORS_SHOWN_MAX), errors, cut, "errors")
    return part("Not done, or lost", table, *rest)


def _lost_attempts(report: dict[str, Any]) -> RenderableType | None:
    """What was tried before the attempt that the report is about, with what went wrong in each."""
    attempts = items_of(object_of(report, "task"), "lost_attempts")
    if not attempts:
        return None
    table = grid("", "", "", "")
    for attempt in attempts[:ERRORS_SHOWN_MAX]:
        when = " to ".join(_second(attempt[key]) for key in ("began_at", "ended_at") if attempt.get(key))
        outcome = LOSSES.get(str(attempt.get("outcome")), attempt.get("outcome"))
        where = Group(safe(attempt.get("machine_id") or "no machine"), safe(when, style="dim"))
        table.add_row(f"{number_of(attempt, 'number')}", where, safe(outcome, style="bold red"), _why_lost(attempt))
    cut = number_of(object_of(report, "truncated"), "lost_attempts")
    rest = more(min(len(attempts), ERRORS_SHOWN_MAX), attempts, cut, "attempts")
    return part("Earlier attempts", table, *rest, note="what their plugins produced is not in this report")


def _why_lost(attempt: dict[str, Any]) -> RenderableType:
    errors = items_of(attempt, "errors")
    named = [
        safe(f"{error.get('plugin') or error.get('stage')} {error.get('outcome')}: {error.get('reason')}", style="dim")
        for error in errors[:LOST_ERRORS_SHOWN_MAX]
    ]
    rest = more(len(named), errors, 0, "errors")
    left_out = number_of(attempt, "errors_left_out")
    lost = [Text(f"… and {left_out} more errors: malbox plugin log TASK", style="dim italic")] if left_out else []
    return Group(safe(attempt.get("reason")), *named, *rest, *lost)


def _second(instant: object) -> str:
    """An instant without its fraction of a second."""
    return str(instant).partition(".")[0].removesuffix("Z")


def _sample(report: dict[str, Any]) -> RenderableType:
    sample = object_of(report, "sample")
    kind = " · ".join(str(sample[key]) for key in ("type", "mime", "package") if sample.get(key))
    return part(
        "Sample",
        facts(
            [
                ("name", sample.get("name")),
                ("type", kind),
                ("size", size(sample.get("size_bytes"))),
                ("sha256", sample.get("sha256")),
                ("sha1", sample.get("sha1")),
                ("md5", sample.get("md5")),
                ("tlsh", sample.get("tlsh")),
                ("ssdeep", sample.get("ssdeep")),
            ]
        ),
    )


def _children(report: dict[str, Any]) -> RenderableType | None:
    children = items_of(report, "children")
    if not children:
        return None
    table = grid("", "", "")
    for child in children[:CHILDREN_SHOWN_MAX]:
        verdict = str(child.get("verdict") or ("not judged yet" if child.get("task_id") else "not analysed"))
        told = " · ".join(str(child[key]) for key in ("task_id", "reason") if child.get(key))
        table.add_row(
            safe(child.get("name"), limit_chars=60), safe(verdict, style=STYLES.get(verdict, "dim")), safe(told)
        )
    cut = number_of(report, "children_left_out")
    return part("Found inside", table, *more(min(len(children), CHILDREN_SHOWN_MAX), children, cut, "files"))


def _run(report: dict[str, Any]) -> RenderableType:
    environment, timings = object_of(report, "environment"), object_of(report, "timings")
    ended_by = report.get("ended_by")
    machine = environment.get("machine_id")
    where = " · ".join(str(environment[key]) for key in ("platform", "acceleration") if environment.get(key))
    total = timings.get("total_s")
    is_boundary = environment.get("is_security_boundary") is True or machine is None
    statement = safe(environment.get("statement"), style="" if is_boundary else "yellow")
    return part(
        "Run",
        facts(
            [
                ("task", object_of(report, "task").get("task_id")),
                ("outcome", f"{report.get('outcome', '')}  {report.get('outcome_reason') or ''}".strip()),
                ("machine", f"{machine} ({where})" if machine else "none"),
                ("ended by", f"{ended_by}: {ENDINGS.get(str(ended_by), '')}" if ended_by else ""),
                ("submitted", timings.get("submitted_at")),
                ("took", f"{total:.1f} s" if isinstance(total, int | float) else ""),
                ("of which", _phases(timings)),
                ("attempts", _attempts(report)),
                ("isolation", statement),
            ]
        ),
    )


def _phases(timings: dict[str, Any]) -> str:
    """What each phase took that took anything."""
    spent = [(phase.get("phase"), phase.get("spent_s")) for phase in items_of(timings, "phases")]
    return " · ".join(f"{name} {took:.1f} s" for name, took in spent if isinstance(took, int | float) and took)


def _attempts(report: dict[str, Any]) -> str:
    """Why there was more than one, if there was: a report of an earlier release says no more of it."""
    task = object_of(report, "task")
    if lost := items_of(task, "lost_attempts"):
        count = len(lost) + number_of(object_of(report, "truncated"), "lost_attempts")
        return f"{number_of(task, 'attempts')}; lost before the last: {count}"
    reasons = texts_of(task, "attempt_reasons")
    return f"{number_of(task, 'attempts')}; lost: {'; '.join(reasons)}" if reasons else ""


def _matches(report: dict[str, Any]) -> RenderableType | None:
    matches = items_of(report, "matches")
    if not matches:
        return None
    table = grid("bold", "dim", "")
    for match in matches[:MATCHES_SHOWN_MAX]:
        line = Text.assemble(
            safe(match.get("description")), "  ", safe(" ".join(texts_of(match, "techniques")), style="magenta")
        )
        table.add_row(safe(match.get("rule"), limit_chars=40), f"{number_of(match, 'severity'):>3}", line)
    cut = number_of(object_of(report, "truncated"), "matches")
    rest = more(min(len(matches), MATCHES_SHOWN_MAX), matches, cut, "matches")
    return part("Matched rules", table, *rest, note="name, severity")


def _techniques(report: dict[str, Any]) -> RenderableType | None:
    techniques = items_of(report, "techniques")
    if not techniques:
        return None
    table = grid("magenta", "", "dim")
    for technique in techniques[:INDICATORS_SHOWN_MAX]:
        sources = ", ".join(texts_of(technique, "sources"))
        table.add_row(safe(technique.get("id")), safe(technique.get("name") or "—"), safe(sources))
    rest = more(min(len(techniques), INDICATORS_SHOWN_MAX), techniques, 0, "techniques")
    return part("ATT&CK techniques", table, *rest)


def _indicators(report: dict[str, Any]) -> RenderableType | None:
    indicators = [one for one in items_of(report, "indicators") if one.get("role") != "sample"]
    if not indicators:
        return None
    table = grid("dim", "dim", "")
    for indicator in indicators[:INDICATORS_SHOWN_MAX]:
        table.add_row(safe(indicator.get("kind")), safe(indicator.get("role")), safe(indicator.get("value")))
    cut = number_of(object_of(report, "truncated"), "indicators")
    rest = more(min(len(indicators), INDICATORS_SHOWN_MAX), indicators, cut, "indicators")
    return part("Indicators", table, *rest)


def _footer(report: dict[str, Any]) -> RenderableType:
    task = object_of(report, "task").get("task_id")
    artifacts = items_of(report, "artifacts")
    lines = [("JSON report", safe(f"malbox report {task} --json", style="cyan"))]
    if artifacts:
        lines.append(("artifacts", safe(f"malbox artifacts list {task}", style="cyan")))
    return part("More", facts(lines))
