"""Reads rules. Strict: what is not known here is an error that names the file, the rule, the key, and what to write."""

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import re2

from malbox.sdk.rules.model import AllOf, AnyOf, Condition, Count, Leaf, NoneOf, Rule, Sequence, Test
from malbox.sdk.techniques import NAMES, PATTERN

FILE_MAX_BYTES = 1024 * 1024
RULES_MAX = 1000
PARTS_MAX = 64
DEPTH_MAX = 4
COUNT_MAX = 100_000
SCORE_MAX = 100
PATTERN_MAX_CHARS = 1000
PLATFORMS = ("linux", "macos", "windows")
REQUIRED = ("id", "title", "description", "techniques", "score", "when", "hits", "misses")
OPTIONAL = ("platforms", "references")
SHAPES = {
    "fact": ("fact",),
    "any": ("any",),
    "all": ("all",),
    "none": ("none",),
    "sequence": ("sequence", "same"),
    "count": ("count", "at_least", "distinct"),
}
"""The word that says which condition it is -> the keys that it may have; a fact has its fields beside."""
JOINED: Mapping[str, type[AnyOf | AllOf | NoneOf]] = {"any": AnyOf, "all": AllOf, "none": NoneOf}

Vocabulary = Mapping[str, Mapping[str, type]]
"""Kind of fact -> its fields, each `str`, `int` or `bool`."""


class RuleError(ValueError):
    """A rule is not one; the message names the file, the rule, the key and the remedy."""


def read_rules(folder: Path, vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """Every rule of the folder's `*.toml`, in the order of the files' names. Raises RuleError."""
    rules = [rule for path in sorted(folder.glob("*.toml")) for rule in _of_file(path, vocabulary)]
    files: dict[str, str] = {}
    for rule in rules:
        if rule.id in files:
            raise RuleError(f"{rule.file}: rule {rule.id}: id: {files[rule.id]} has it too; give one another id")
        files[rule.id] = rule.file
    if len(rules) > RULES_MAX:
        raise RuleError(f"{folder.name}: {len(rules)} rules; at most {RULES_MAX} are read")
    return tuple(rules)


def _of_file(path: Path, vocabulary: Vocabulary) -> list[Rule]:
    if path.stat().st_size > FILE_MAX_BYTES:
        raise RuleError(f"{path.name}: longer than {FILE_MAX_BYTES} bytes; divide it")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RuleError(f"{path.name}: not TOML: {error}") from error
    tables = document.get("rule")
    if set(document) != {"rule"} or not isinstance(tables, list):
        raise RuleError(f"{path.name}: {', '.join(sorted(document)) or 'empty'}; a file has [[rule]] tables only")
    return [
        _Reader(f"{path.name}: rule {_named(table, at)}", vocabulary).rule(table, path.name)
        for at, table in enumerate(tables, start=1)
    ]


def _named(table: object, at: int) -> str:
    name = table.get("id") if isinstance(table, dict) else None
    return name if isinstance(name, str) else f"number {at}"


class _Reader:
    """Reads one rule; knows what to call it in an error."""

    def __init__(self, where: str, vocabulary: Vocabulary) -> None:
        self._where = where
        self._vocabulary = vocabulary

    def rule(self, table: Any, file: str) -> Rule:
        """The rule of the table."""
        if not isinstance(table, dict):
            self._refuse("rule", "not a table; begin it with [[rule]]")
        self._known("", table, (*REQUIRED, *OPTIONAL))
        for key in REQUIRED:
            if key not in table:
                self._refuse(key, "missing; every rule says so")
        return Rule(
            id=self._id(table["id"]),
            title=self._text("title", table["title"]),
            description=self._text("description", table["description"]),
            techniques=self._techniques(table["techniques"]),
            score=self._number("score", table["score"], 1, SCORE_MAX),
            platforms=frozenset(self._platforms(table.get("platforms", []))),
            references=self._texts("references", table.get("references", [])),
            when=self._when(table["when"]),
            hits=self._examples("hits", table["hits"]),
            misses=self._examples("misses", table["misses"]),
            file=file,
        )

    def _refuse(self, key: str, words: str) -> NoReturn:
        raise RuleError(f"{self._where}: {key}: {words}")

    def _known(self, place: str, table: Mapping[str, Any], keys: Iterable[str]) -> None:
        allowed = tuple(keys)
        for key in table:
            if key not in allowed:
                near = get_close_matches(key, allowed, 1)
                words = f"did you mean {near[0]}?" if near else f"there are: {', '.join(allowed)}"
                self._refuse(f"{place}.{key}".lstrip("."), f"unknown key; {words}")

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            self._refuse(key, "not a text; write a sentence in quotation marks")
        return value

    def _texts(self, key: str, value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            self._refuse(key, 'not a list; write ["…", "…"]')
        return tuple(self._text(f"{key}[{at}]", one) for at, one in enumerate(value))

    def _number(self, key: str, value: object, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._refuse(key, f"not a whole number from {least} to {most}")
        return value

    def _id(self, value: object) -> str:
        if not isinstance(value, str) or not re2.fullmatch("[a-z][a-z0-9_]{2,63}", value):
            self._refuse("id", "not an id; write small letters, digits and underscores, 3 to 64 of them")
        return value

    def _techniques(self, value: object) -> tuple[str, ...]:
        names = self._texts("techniques", value)
        for name in names:
            if not PATTERN.match(name):
                self._refuse("techniques", f"{name!r} is not an ATT&CK id; write T1234 or T1234.001")
            if name not in NAMES:
                self._refuse("techniques", f"{name} has no name here; add it to malbox/sdk/techniques.py")
        return names

    def _platforms(self, value: object) -> tuple[str, ...]:
        for name in (names := self._texts("platforms", value)):
            if name not in PLATFORMS:
                self._refuse("platforms", f"{name!r} is none; there are: {', '.join(PLATFORMS)}")
        return names

    def _examples(self, key: str, value: object) -> tuple[tuple[Any, ...], ...]:
        """A list of examples, each a list of what the plugin is given."""
        if not isinstance(value, list) or not value:
            self._refuse(key, "no example; write what is to match in hits, and what nearly does in misses")
        for one in value:
            if not isinstance(one, list) or not one:
                self._refuse(key, "an example is a list of one or more facts: [[…], […]]")
        return tuple(tuple(one) for one in value)

    def _when(self, table: Any) -> Condition:
        condition = self._condition("when", table, 1)
        place = _baseless("when", condition)
        if place is not None:
            self._refuse(
                place,
                "met by facts that are not there, so a match has no evidence; put it into an all "
                "beside what a fact meets",
            )
        return condition

    def _condition(self, place: str, table: Any, depth: int) -> Condition:
        words = [word for word in SHAPES if isinstance(table, dict) and word in table]
        if len(words) != 1:
            self._refuse(place, f"one of {', '.join(SHAPES)} is to stand in it; {len(words)} do")
        word = words[0]
        if depth > DEPTH_MAX:
            self._refuse(place, f"conditions stand no deeper than {DEPTH_MAX} in each other")
        if word == "fact":
            return self._leaf(place, table)
        self._known(place, table, SHAPES[word])
        if word == "count":
            of = self._leaf(f"{place}.count", table["count"])
            at_least = self._number(f"{place}.at_least", table.get("at_least"), 1, COUNT_MAX)
            return Count(of, at_least, self._field(f"{place}.distinct", table.get("distinct"), (of,)))
        members = table[word]
        least = 1 if word == "none" else 2
        if not isinstance(members, list) or not least <= len(members) <= PARTS_MAX:
            self._refuse(f"{place}.{word}", f"not a list of {least} to {PARTS_MAX} conditions")
        if word == "sequence":
            steps = tuple(self._leaf(f"{place}.sequence[{at}]", one) for at, one in enumerate(members))
            return Sequence(steps, self._field(f"{place}.same", table.get("same"), steps))
        parts = tuple(self._condition(f"{place}.{word}[{at}]", one, depth + 1) for at, one in enumerate(members))
        if word == "none" and any(map(_excludes, parts)):
            self._refuse(f"{place}.none", "a none stands in it; write what that one excludes as it is, outside of both")
        return JOINED[word](parts)

    def _field(self, place: str, name: object, leaves: Iterable[Leaf]) -> str | None:
        if name is None:
            return None
        for leaf in leaves:
            if name not in self._vocabulary[leaf.fact]:
                self._refuse(place, f"a fact {leaf.fact} has no field {name!r}; it has: {self._fields(leaf.fact)}")
        return str(name)

    def _fields(self, fact: str) -> str:
        return ", ".join(self._vocabulary[fact])

    def _leaf(self, place: str, table: Any) -> Leaf:
        fact = table.get("fact") if isinstance(table, dict) else None
        if not isinstance(fact, str) or fact not in self._vocabulary:
            self._refuse(f"{place}.fact", f"{fact!r} is none; there are: {', '.join(self._vocabulary)}")
        fields = self._vocabulary[fact]
        self._known(place, table, ("fact", *fields))
        named = ((name, value) for name, value in table.items() if name != "fact")
        return Leaf(fact, tuple(self._test(f"{place}.{name}", name, fields[name], value) for name, value in named))

    def _test(self, place: str, name: str, kind: type, value: Any) -> Test:
        if kind is bool:
            if not isinstance(value, bool):
                self._refuse(place, "write true or false")
            return Test(name, one_of=frozenset({value}))
        if isinstance(value, list) and value and all(type(one) is kind for one in value):
            return Test(name, one_of=frozenset(value))
        if kind is int:
            return self._number_test(place, name, value)
        if isinstance(value, str):
            return Test(name, pattern=self._pattern(place, value))
        if not isinstance(value, dict) or set(value) != {"not"}:
            self._refuse(place, 'write a pattern, ["one", "of", "these"], or { not = "a pattern" }')
        return Test(name, pattern=self._pattern(place, value["not"]), is_negated=True)

    def _number_test(self, place: str, name: str, value: Any) -> Test:
        if type(value) is int:
            return Test(name, one_of=frozenset({value}))
        if not isinstance(value, dict) or not value or not all(type(one) is int for one in value.values()):
            self._refuse(place, "write a number, a list of numbers, or { at_least = 1, at_most = 2 }")
        self._known(place, value, ("at_least", "at_most"))
        return Test(name, at_least=value.get("at_least"), at_most=value.get("at_most"))

    def _pattern(self, place: str, value: object) -> str:
        text = self._text(place, value)
        if len(text) > PATTERN_MAX_CHARS:
            self._refuse(place, f"longer than {PATTERN_MAX_CHARS} characters; divide it with any")
        options = re2.Options()
        options.log_errors = False
        try:
            re2.compile(text, options)
        except re2.error as error:
            self._refuse(place, f"not a pattern of RE2: {error}; it has no look-around and no back-references")
        return text


def _baseless(place: str, condition: Condition) -> str | None:
    """Where a condition stands that is met by no fact, and that can be all that a match rests on; None: nowhere."""
    match condition:
        case NoneOf():
            return place
        case AnyOf(parts):
            return next(filter(None, (_baseless(f"{place}.any[{at}]", one) for at, one in enumerate(parts))), None)
        case AllOf(parts):
            places = [_baseless(f"{place}.all[{at}]", one) for at, one in enumerate(parts)]
            return places[0] if all(places) else None
    return None


def _excludes(condition: Condition) -> bool:
    """Whether a none stands in it."""
    match condition:
        case NoneOf():
            return True
        case AnyOf(parts) | AllOf(parts):
            return any(map(_excludes, parts))
    return False
