"""Declarative rules in TOML files: what is asked of a plugin's facts, what a yes means, and an example of each answer.

A plugin says which facts it has (a `Vocabulary`), reads its rules once, before there is a sample, and hands one fact
after the other to a `Matching`. How a rule is written: docs/plugin-tutorial.md.
"""

from malbox.sdk.rules.language import RuleError, Vocabulary, read_rules
from malbox.sdk.rules.matching import Matching, Prepared
from malbox.sdk.rules.model import Fact, Rule

__all__ = ["Fact", "Matching", "Prepared", "Rule", "RuleError", "Vocabulary", "read_rules"]
