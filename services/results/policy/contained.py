"""What a verdict about a file found inside the sample says about the sample. Each verdict counts once."""

from collections.abc import Iterator, Mapping, Sequence

from contracts.results import Verdict
from services.results.domain.bounds import EVIDENCE_MAX, cut
from services.results.domain.report import Child, Evidence, Reason

NAMED_MAX = 3
WEIGHTS: Mapping[Verdict, int] = {"malicious": 70, "suspicious": 30}
"""Enough for the container to be called the same: whoever is handed it is handed what is inside."""
NAMES: Mapping[Verdict, str] = {"malicious": "contains_malicious_file", "suspicious": "contains_suspicious_file"}


def of_contained(children: Sequence[Child]) -> Iterator[Reason]:
    """A reason for each verdict that counts, with the places of the files that have it."""
    for verdict, weight in WEIGHTS.items():
        found = [child for child in children if child.verdict == verdict]
        if not found:
            continue
        pointed_at, left_out = cut(found, EVIDENCE_MAX)
        first, *more = (Evidence(plugin=child.plugin, result_id=child.result_id, pointer="") for child in pointed_at)
        named = ", ".join(child.name for child in found[:NAMED_MAX])
        others = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
        verb = "is" if len(found) == 1 else "are"
        yield Reason(
            points=0,
            weight=weight,
            why=f"contains {named}{others}, which {verb} {verdict}",
            name=NAMES[verdict],
            evidence=first,
            more_evidence=tuple(more),
            evidence_left_out=left_out,
        )


def is_of_contained(reason: Reason) -> bool:
    """Whether the reason is one of these."""
    return reason.name in NAMES.values()
