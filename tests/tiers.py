"""Counts the tests per tier, and makes a skipped test a failure wherever a skip would hide something."""

import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest

TIERS = ("unit", "contracts", "integration", "simulation", "crash", "acceptance", "security", "bench")
NO_SKIPS_VARIABLE = "MALBOX_NO_SKIPS"
OUTCOMES = ("passed", "failed", "error", "skipped")


def tier_of(node_id: str) -> str:
    """The tier of a test: the folder right below tests/."""
    parts = Path(node_id.partition("::")[0]).parts
    tier = parts[1] if len(parts) > 2 and parts[0] == "tests" else "other"
    return tier if tier in TIERS else "other"


class TierCount:
    """A plugin of pytest: one line per tier at the end of the run."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._took_s: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Each phase of each test; a test counts once."""
        tier, outcome = tier_of(report.nodeid), outcome_of(report)
        self._took_s[tier] += report.duration
        if outcome is not None:
            self._counts.setdefault(tier, Counter())[outcome] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A skip fails the run where MALBOX_NO_SKIPS is set, as `make test` does."""
        if self.skipped and os.environ.get(NO_SKIPS_VARIABLE) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table."""
        terminalreporter.section("tests per tier")
        for tier in (*TIERS, "other"):
            counts = self._counts.get(tier)
            if counts:
                said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
                terminalreporter.write_line(f"{tier:<12} {said} in {self._took_s[tier]:.0f} s")
        if self.skipped and os.environ.get(NO_SKIPS_VARIABLE):
            terminalreporter.write_line(
                f"{self.skipped} skipped: a skip is a failure here ({NO_SKIPS_VARIABLE} is set)"
            )

    @property
    def skipped(self) -> int:
        """How many tests were not run."""
        return sum(counts["skipped"] for counts in self._counts.values())


def outcome_of(report: pytest.TestReport) -> str | None:
    """What the phase says about the test, or None when another phase says it."""
    if report.skipped:
        return "skipped"
    if report.when == "call":
        return "passed" if report.passed else "failed"
    return "error" if report.failed else None
