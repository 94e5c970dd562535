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

from malbox.sdk.findings import printable
from malbox.sdk.rules.model import AllOf, AnyOf, Condition, Count, Leaf, Rule, Sequence, Test, Value

EVIDENCE_MAX = 10
KEYS_MAX = 5_000
REMEMBERED_MAX = 20_000
TEXT_MAX_CHARS = 8192
SHOWN_MAX_CHARS = 300
AUTOMATON_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Fact:
    """Something that was seen: its kind, its fields, and where it stands in what was read."""

    kind: str
    fields: Mapping[str, Value]
    place: Mapping[str, Any]

    def shown(self) -> str:
        """The fact on one line."""
        words = (f"{name} {value}" for name, value in self.fields.items() if value != "" and value is not False)
        return printable("; ".join(words), SHOWN_MAX_CHARS)


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
            (rule, _state(rule.when))
            for rule in prepared.rules
            if not rule.platforms or platform is None or platform in rule.platforms
        ]
        self._listening: dict[Leaf, list[tuple[_State, int]]] = {}
        for _, state in self._rules:
            for leaf, listener, step in state.listeners():
                self._listening.setdefault(leaf, []).append((listener, step))
        self._signs: dict[int, dict[str, Any]] = {}
        self._seen = 0

    def feed(self, fact: Fact) -> None:
        """The fact counts."""
        self._seen += 1
        for leaf in self._prepared.passed(fact):
            for state, step in self._listening.get(leaf, ()):
                if state.take(self._seen, fact, step):
                    self._signs.setdefault(self._seen, _as_evidence(self._seen, fact))

    def result(self) -> dict[str, Any]:
        """What matched, worst first, each with its evidence in order."""
        found = [_match(rule, state, self._signs) for rule, state in self._rules if state.holds()]
        found.sort(key=lambda match: (-match["severity"], match["rule"]))
        return {
            "matches": found,
            "rules": len(self._rules),
            "facts": self._seen,
            "is_truncated": any(state.is_cut() for _, state in self._rules),
        }


def _match(rule: Rule, state: "_State", signs: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
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
        case AnyOf() | AllOf():
            for part in condition.parts:
                yield from _leaves(part)


@dataclass
class _State:
    """How far one condition is with the facts so far."""

    def listeners(self) -> "Iterator[tuple[Leaf, _State, int]]":
        """Who is to be told of which leaf, and as which step."""
        return iter(())

    def take(self, number: int, fact: Fact, step: int) -> bool:
        """A fact passed the leaf. Whether it may be evidence."""
        raise NotImplementedError

    def holds(self) -> bool:
        """Whether the condition is met."""
        raise NotImplementedError

    def evidence(self) -> Iterator[int]:
        """The facts that it rests on: first what it cannot do without."""
        raise NotImplementedError

    def total(self) -> int:
        """How many facts it rests on."""
        raise NotImplementedError

    def is_cut(self) -> bool:
        """Whether a bound kept something out that might have met the condition."""
        return False


@dataclass
class _Counting(_State):
    """A leaf, or so many of it."""

    of: Leaf
    at_least: int = 1
    distinct: str | None = None
    numbers: list[int] = field(default_factory=list)
    count: int = 0
    values: set[Value | None] = field(default_factory=set)

    def listeners(self) -> Iterator[tuple[Leaf, _State, int]]:
        yield self.of, self, 0

    def take(self, number: int, fact: Fact, step: int) -> bool:
        del step
        if self.distinct is not None and not self.holds():
            value = fact.fields.get(self.distinct)
            if value in self.values:
                return False
            self.values.add(value)
        self.count += 1
        if len(self.numbers) < EVIDENCE_MAX:
            self.numbers.append(number)
            return True
        return False

    def holds(self) -> bool:
        return self.count >= self.at_least

    def evidence(self) -> Iterator[int]:
        return iter(self.numbers if self.holds() else ())

    def total(self) -> int:
        return self.count if self.holds() else 0


@dataclass
class _Following(_State):
    """One step after the other, for each value of the field that is to be the same."""

    steps: tuple[Leaf, ...]
    same: str | None
    begun: dict[Value | None, list[int]] = field(default_factory=dict)
    whole: list[list[int]] = field(default_factory=list)
    count: int = 0
    has_cut: bool = False

    def listeners(self) -> Iterator[tuple[Leaf, _State, int]]:
        for step in reversed(range(len(self.steps))):  # the last first: a fact is at most one step of a sequence
            yield self.steps[step], self, step

    def take(self, number: int, fact: Fact, step: int) -> bool:
        key = fact.fields.get(self.same) if self.same is not None else None
        so_far = self.begun.get(key)
        if so_far is None:
            if step or len(self.begun) >= KEYS_MAX:
                self.has_cut |= not step
                return False
            so_far = self.begun[key] = []
        if len(so_far) != step or (so_far and so_far[-1] == number):
            return False
        so_far.append(number)
        if len(so_far) == len(self.steps):
            del self.begun[key]
            self.count += 1
            if len(self.whole) < EVIDENCE_MAX:
                self.whole.append(so_far)
        return True

    def holds(self) -> bool:
        return self.count > 0

    def evidence(self) -> Iterator[int]:
        return (number for numbers in self.whole for number in numbers)

    def total(self) -> int:
        return self.count * len(self.steps)

    def is_cut(self) -> bool:
        return self.has_cut and not self.holds()


@dataclass
class _Joined(_State):
    """Several conditions: one of them, or all."""

    parts: tuple[_State, ...]
    is_all: bool

    def listeners(self) -> Iterator[tuple[Leaf, _State, int]]:
        for part in self.parts:
            yield from part.listeners()

    def holds(self) -> bool:
        return (all if self.is_all else any)(part.holds() for part in self.parts)

    def evidence(self) -> Iterator[int]:
        """Of each part the first, then of each the second: a bound leaves no part without."""
        waiting = [part.evidence() for part in self.parts if part.holds()]
        while waiting:
            for one in tuple(waiting):
                number = next(one, None)
                if number is None:
                    waiting.remove(one)
                else:
                    yield number

    def total(self) -> int:
        return sum(part.total() for part in self.parts if part.holds())

    def is_cut(self) -> bool:
        return any(part.is_cut() for part in self.parts)


def _state(condition: Condition) -> _State:
    match condition:
        case Leaf():
            return _Counting(condition)
        case Count():
            return _Counting(condition.of, condition.at_least, condition.distinct)
        case Sequence():
            return _Following(condition.steps, condition.same)
        case AnyOf():
            return _Joined(tuple(_state(part) for part in condition.parts), is_all=False)
        case AllOf():
            return _Joined(tuple(_state(part) for part in condition.parts), is_all=True)
