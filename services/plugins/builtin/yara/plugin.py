"""Scans the sample with the rules of this folder. What a rule means is in its metadata, nowhere else."""

from pathlib import Path
from typing import Any

import yara_x

from malbox.sdk import Context, PluginFailure

RULES_DIR = Path(__file__).parent / "rules"
SCAN_TIMEOUT_S = 90
STRINGS_PER_RULE_MAX = 20
MATCHES_PER_PATTERN_MAX = 20
RULES_MAX = 200


def run(context: Context) -> None:
    """The result `yara` is emitted. Raises PluginFailure when the scan did not end in time."""
    context.emit_json("yara", scan(context.sample, RULES))


def compile_rules(folder: Path = RULES_DIR) -> yara_x.Rules:
    """Every rule of the folder, in the order of the file names."""
    compiler = yara_x.Compiler()
    for path in sorted(folder.glob("*.yar")):
        compiler.new_namespace(path.stem)
        compiler.add_source(path.read_text(encoding="utf-8"), origin=path.name)
    return compiler.build()


def scan(sample: Path, rules: yara_x.Rules) -> dict[str, Any]:
    """What matched, worst first, bounded."""
    scanner = yara_x.Scanner(rules)
    scanner.set_timeout(SCAN_TIMEOUT_S)
    scanner.max_matches_per_pattern(MATCHES_PER_PATTERN_MAX)
    try:
        found = scanner.scan_file(str(sample)).matching_rules
    except yara_x.TimeoutError as error:
        raise PluginFailure(f"the scan did not end within {SCAN_TIMEOUT_S} s") from error
    matches = sorted((_match(rule) for rule in found), key=lambda match: (-match["severity"], match["rule"]))
    return {"matches": matches[:RULES_MAX], "is_truncated": len(matches) > RULES_MAX}


def _match(rule: yara_x.Rule) -> dict[str, Any]:
    metadata = dict(rule.metadata)
    strings = [
        {"id": pattern.identifier, "offset": match.offset, "length": match.length}
        for pattern in rule.patterns
        for match in pattern.matches
    ]
    return {
        "rule": rule.identifier,
        "description": metadata["description"],
        "severity": metadata["severity"],
        "attack": metadata.get("attack"),
        "strings": sorted(strings, key=lambda string: (string["offset"], string["id"]))[:STRINGS_PER_RULE_MAX],
    }


RULES = compile_rules()  # once, before there is a sample: every run finds them compiled
yara_x.Scanner(RULES).scan(b"")  # and what the first scan makes ready, made; without a limit of time, which is a thread
