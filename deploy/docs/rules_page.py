"""docs/reference/rules.md: every rule that ships, from the rules' own files."""

from collections.abc import Iterator, Sequence

from malbox.sdk.rules import Rule, Vocabulary
from malbox.sdk.techniques import NAMES
from services.plugins.builtin.behaviour.facts import VOCABULARY as BEHAVIOUR_FACTS
from services.plugins.builtin.behaviour.plugin import RULES as BEHAVIOUR_RULES
from services.plugins.builtin.capabilities.facts import VOCABULARY as CAPABILITY_FACTS
from services.plugins.builtin.capabilities.plugin import RULES as CAPABILITY_RULES

PLUGINS: tuple[tuple[str, str, Sequence[Rule], Vocabulary], ...] = (
    (
        "behaviour",
        "What a program did, as `behaviour` reads it from the trace.",
        BEHAVIOUR_RULES.rules,
        BEHAVIOUR_FACTS,
    ),
    (
        "capabilities",
        "What a program can do, out of what `pe`, `elf`, `macho`, `strings` and `scripts` found in it.",
        CAPABILITY_RULES.rules,
        CAPABILITY_FACTS,
    ),
)
"""Plugin, what its rules are about, the rules, and the facts that they may ask about."""


def page() -> str:
    """The document."""
    return "\n".join([*_head(), *(line for plugin in PLUGINS for line in _of_plugin(*plugin)), *_techniques()])


def _head() -> list[str]:
    count = sum(len(rules) for _, _, rules, _ in PLUGINS)
    return [
        "# Rules",
        "",
        "Generated from the rules' files by `make docs`. How one is written: [tutorial](../plugin-tutorial.md#rules).",
        f"There are {count}. Points make a sample suspicious from 30 and malicious from 70; they end at 100.",
        "Techniques are MITRE ATT&CK's (Enterprise).",
        "",
    ]


def _of_plugin(name: str, about: str, rules: Sequence[Rule], facts: Vocabulary) -> Iterator[str]:
    yield from (f"## {name}", "", f"{about} {len(rules)} rules in `services/plugins/builtin/{name}/rules`.")
    for file in dict.fromkeys(rule.file for rule in rules):
        yield from (
            "",
            f"### {file}",
            "",
            "| rule | what it says of the sample | techniques | points |",
            "|---|---|---|---|",
        )
        for rule in rules:
            if rule.file == file:
                yield f"| `{rule.id}` | {rule.description} | {', '.join(rule.techniques)} | {rule.score} |"
    yield from ("", f"### Facts of {name}", "", "| fact | fields |", "|---|---|")
    for fact, fields in facts.items():
        yield f"| `{fact}` | {', '.join(f'`{field}` ({kind.__name__})' for field, kind in fields.items())} |"
    yield ""


def _techniques() -> Iterator[str]:
    by_technique: dict[str, list[str]] = {}
    for _, _, rules, _ in PLUGINS:
        for rule in rules:
            for technique in rule.techniques:
                by_technique.setdefault(technique, []).append(f"`{rule.id}`")
    yield from ("## By technique", "", "| technique | name | rules |", "|---|---|---|")
    for technique, names in sorted(by_technique.items()):
        yield f"| {technique} | {NAMES[technique]} | {', '.join(names)} |"
    yield ""
