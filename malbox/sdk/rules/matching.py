"""Holds facts against rules: one pass, each fact once, in time that does not grow with what came before.

All patterns of one field are searched at once, by RE2, whose time grows with the text only. What is remembered is
bounded; what a bound left out is said.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import re2

from malbox.sdk.rules.model import AllOf, AnyOf, Condition, Count, Fact, Leaf, NoneOf, Rule, Sequence, Test, Value
from malbox.sdk.rules.states import EVIDENCE_MAX, Listener, State, state_of

REMEMBERED_MAX = 20_000
TEXT_MAX_CHARS = 8192
AUTOMATON_MAX_BYTES = 64 * 1024 * 1024


class Prepared:
    """Rules made ready once, to be asked by any number of matchings."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._leaves: dict[str, list[Leaf]] = {}
        for leaf in dict.fromkeys(leaf for rule in self.rules for leaf in _leaves(rule.when)):
            self._leaves.setdefault(leaf.fact, []).append(leaf)
        self._searches = {kind: _Search(leaves) for kind, leaves in self._leaves.items()}

    def passed(self, fact: Fact) -> Iterator[Leaf]:
        """The leaves of all rules whose tests the fact passes."""
        search = self._searches.get(fact.kind)
        return iter(()) if search is None else search.passed(fact.fields)


class Matching:
    """Facts of one sample against the rules for its platform."""

    def __init__(self, prepared: Prepared, platform: str | None = None) -> None:
        self._prepared = prepared
        self._rules = [
            (rule, state_of(rule.when))
            for rule in prepared.rules
            if not rule.platforms or platform is None or platform in rule.platforms
        ]
        self._listening: dict[Leaf, list[tuple[Listener, int]]] = {}
        for _, state in self._rules:
            for leaf, listener, step in state.listeners():
                self._listening.setdefault(leaf, []).append((listener, step))
        self._signs: dict[int, dict[str, Any]] = {}
        self._seen = 0
        self._is_cut = False

    def feed(self, fact: Fact) -> None:
        """The fact counts."""
        self._seen += 1
        if any(isinstance(value, str) and len(value) > TEXT_MAX_CHARS for value in fact.fields.values()):
            self.cut()  # what stands behind the bound is not searched for
        for leaf in self._prepared.passed(fact):
            for state, step in self._listening.get(leaf, ()):
                if state.take(self._seen, fact, step):
                    self._signs.setdefault(self._seen, _as_evidence(self._seen, fact))

    def cut(self) -> None:
        """Facts are missing: no condition is met by the absence of any, and the result says that it is truncated."""
        if not self._is_cut:
            self._is_cut = True
            for _, state in self._rules:
                state.cut()

    def result(self) -> dict[str, Any]:
        """What matched, worst first, each with its evidence in order."""
        found = [_match(rule, state, self._signs) for rule, state in self._rules if state.holds()]
        found.sort(key=lambda match: (-match["severity"], match["rule"]))
        return {
            "matches": found,
            "rules": len(self._rules),
            "facts": self._seen,
            "is_truncated": self._is_cut or any(state.is_cut() for _, state in self._rules),
        }


def _match(rule: Rule, state: State, signs: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    total = state.total()
    numbers = sorted(dict.fromkeys(islice(state.evidence(), EVIDENCE_MAX)))
    return {
        "rule": rule.id,
        "title": rule.title,
        "description": rule.description,
        "severity": rule.score,
        "attack": list(rule.techniques),
        "evidence": [signs[number] for number in numbers],
        "more": max(0, total - len(numbers)),
    }


def _as_evidence(number: int, fact: Fact) -> dict[str, Any]:
    return {"sequence": number, "fact": fact.kind, **fact.place, "what": fact.shown()}


@dataclass
class _Ask:
    """A leaf, and its tests by what they cost: patterns have been searched for already."""

    leaf: Leaf
    wanted: list[tuple[str, int]] = field(default_factory=list)
    unwanted: list[tuple[str, int]] = field(default_factory=list)
    others: list[Test] = field(default_factory=list)

    def passes(self, fields: Mapping[str, Value], found: Mapping[str, frozenset[int]]) -> bool:
        """Whether these fields, in which these patterns were found, pass all tests."""
        return (
            all(number in found[name] for name, number in self.wanted)
            and all(_passes(test, fields.get(test.field)) for test in self.others)
            and not any(number in found[name] for name, number in self.unwanted)
        )


class _Search:
    """All tests of one kind of fact."""

    def __init__(self, leaves: Iterable[Leaf]) -> None:
        patterns: dict[str, dict[str, int]] = {}
        self._asks: list[_Ask] = []
        for leaf in leaves:
            ask = _Ask(leaf)
            self._asks.append(ask)
            for test in leaf.tests:
                if test.pattern is None:
                    ask.others.append(test)
                    continue
                known = patterns.setdefault(test.field, {})
                number = known.setdefault(test.pattern, len(known))
                (ask.unwanted if test.is_negated else ask.wanted).append((test.field, number))
        self._fields = {name: _Patterns(known) for name, known in patterns.items()}

    def passed(self, fields: Mapping[str, Value]) -> Iterator[Leaf]:
        """The leaves that these fields pass. A field that the fact does not have passes no test but a negated one."""
        found = {name: patterns.found(fields.get(name)) for name, patterns in self._fields.items()}
        return (ask.leaf for ask in self._asks if ask.passes(fields, found))


class _Patterns:
    """All patterns that one field is searched for; remembers the answers for the values of late."""

    def __init__(self, patterns: Iterable[str]) -> None:
        options = re2.Options()
        options.log_errors = False
        options.max_mem = AUTOMATON_MAX_BYTES
        self._set = re2.Set.SearchSet(options)
        for pattern in patterns:
            self._set.Add(pattern)
        self._set.Compile()
        self._answers: OrderedDict[bytes, frozenset[int]] = OrderedDict()

    def found(self, value: Value | None) -> frozenset[int]:
        """The numbers of the patterns that stand in the value."""
        if not isinstance(value, str):
            return frozenset()
        text = value[:TEXT_MAX_CHARS].encode("utf-8", "replace")
        answer = self._answers.get(text)
        if answer is None:
            answer = self._answers[text] = frozenset(self._set.Match(text) or ())
            if len(self._answers) > REMEMBERED_MAX:
                self._answers.popitem(last=False)
        return answer


def _passes(test: Test, value: Value | None) -> bool:
    if value is None:
        return False
    if test.one_of is not None:
        return value in test.one_of
    if not isinstance(value, int):
        return False
    return (test.at_least is None or value >= test.at_least) and (test.at_most is None or value <= test.at_most)


def _leaves(condition: Condition) -> Iterator[Leaf]:
    match condition:
        case Leaf():
            yield condition
        case Count():
            yield condition.of
        case Sequence():
            yield from condition.steps
        case AnyOf() | AllOf() | NoneOf():
            for part in condition.parts:
                yield from _leaves(part)
