"""The examples that rules carry, as cases of a test."""

from collections.abc import Iterable
from typing import Any

import pytest

from malbox.sdk.rules import Rule


def hits(rules: Iterable[Rule]) -> list[Any]:
    """What each rule is to find, each example by itself."""
    return [case for rule in rules for case in _cases(rule, rule.hits)]


def misses(rules: Iterable[Rule]) -> list[Any]:
    """What each rule is to leave alone, each example by itself."""
    return [case for rule in rules for case in _cases(rule, rule.misses)]


def _cases(rule: Rule, examples: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [pytest.param(rule, example, id=f"{rule.id}-{number}") for number, example in enumerate(examples)]
