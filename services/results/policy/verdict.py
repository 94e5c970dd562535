"""Score and verdict: the sum of what was found, each point with its evidence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contracts.results import Verdict
from malbox.sdk.techniques import valid
from services.results.domain.bounds import EVIDENCE_MAX, cut
from services.results.domain.inputs import Behaviour, SeenMatch, SeenTrait
from services.results.domain.report import Child, Evidence, Reason
from services.results.policy.contained import of_contained
from services.results.policy.traits import TRAITS, Trait

SCORE_MAX = 100
MALICIOUS_FROM = 70
SUSPICIOUS_FROM = 30


@dataclass(frozen=True)
class Matched:
    """A rule that matched, and the places that it rests on: at least one."""

    match: SeenMatch
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Noticed:
    """A trait that a static plugin found, and where its result says so."""

    trait: SeenTrait
    evidence: Evidence


@dataclass(frozen=True)
class Observed:
    """What was seen while the sample ran, and in which result."""

    behaviour: Behaviour
    plugin: str
    result_id: str

    def evidence(self, pointer: str) -> Evidence:
        """A place in the result."""
        return Evidence(plugin=self.plugin, result_id=self.result_id, pointer=pointer)


@dataclass(frozen=True)
class Judgement:
    """What is thought of the sample, and why. The reasons' points add up to the score."""

    verdict: Verdict
    score: int
    reasons: tuple[Reason, ...]


def judge(
    matches: list[Matched],
    *,
    has_run: bool,
    noticed: list[Noticed] | None = None,
    traits: tuple[Trait, ...] = TRAITS,
) -> Judgement:
    """The verdict. Unknown: too little was found, and the sample was not seen running either."""
    found = [_of_match(matched) for matched in matches if matched.match.severity > 0]
    found += _of_traits(noticed or [], traits)
    return weighed(found, (), has_run=has_run)


def weighed(own: Sequence[Reason], children: Sequence[Child], *, has_run: bool) -> Judgement:
    """The verdict that follows from these reasons, and from what is known of the files found inside."""
    found = [*own, *of_contained(children)]
    reasons = _shared_out(sorted(found, key=lambda reason: (-reason.weight, reason.name)))
    score = sum(reason.points for reason in reasons)
    return Judgement(_verdict(score, has_run=has_run), score, reasons)


def _verdict(score: int, *, has_run: bool) -> Verdict:
    if score >= MALICIOUS_FROM:
        return "malicious"
    if score >= SUSPICIOUS_FROM:
        return "suspicious"
    return "benign" if has_run else "unknown"


def _of_match(matched: Matched) -> Reason:
    match = matched.match
    return Reason(
        points=0,
        weight=match.severity,
        why=match.description or f"the rule {match.rule} matches",
        name=match.rule,
        techniques=valid(match.attack),
        evidence=matched.evidence[0],
        more_evidence=matched.evidence[1:],
        evidence_left_out=max(0, len(match.evidence) - len(matched.evidence)) + match.more,
    )


def _of_traits(noticed: list[Noticed], traits: tuple[Trait, ...]) -> Iterator[Reason]:
    """Each trait counts once, however many plugins and places show it. A name without a meaning counts nothing."""
    places: dict[str, list[Evidence]] = {}
    for one in noticed:
        places.setdefault(one.trait.name, []).append(one.evidence)
    for trait in traits:
        if trait.name in places:
            (first, *more), left_out = cut(places[trait.name], EVIDENCE_MAX)
            yield Reason(
                points=0,
                weight=trait.points,
                why=trait.description,
                name=trait.name,
                techniques=trait.techniques,
                evidence=first,
                more_evidence=tuple(more),
                evidence_left_out=left_out,
            )


def _shared_out(reasons: list[Reason]) -> tuple[Reason, ...]:
    """Each reason gets its weight in points until the score is full."""
    left, shared = SCORE_MAX, []
    for reason in reasons:
        points = min(left, reason.weight)
        left -= points
        shared.append(reason.model_copy(update={"points": points}))
    return tuple(shared)
