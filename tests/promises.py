"""Prints which test holds which promise: `python -m tests.promises`. The markers on the tests are the only source."""

import contextlib
import io
import sys
from collections import defaultdict
from collections.abc import Iterator

import pytest

MARKER = "promise"


class Collector:
    """A plugin of pytest that notes the promises of every collected test."""

    def __init__(self) -> None:
        self.held: dict[str, list[str]] = defaultdict(list)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Called once with all tests."""
        for item in items:
            name = item.nodeid.partition("[")[0]
            for marker in item.iter_markers(MARKER):
                for promise in marker.args:
                    if name not in self.held[str(promise)]:
                        self.held[str(promise)].append(name)


def sort_key(promise: str) -> tuple[str, int, str]:
    """P2 before P10, known problems (A1 to G9) before promises (P1 to P52)."""
    digits = "".join(filter(str.isdigit, promise))
    return promise[:1], int(digits or 0), promise


def table(held: dict[str, list[str]]) -> Iterator[str]:
    """The lines of the table."""
    for promise in sorted(held, key=sort_key):
        for row, test in enumerate(held[promise]):
            yield f"{promise if row == 0 else '':<6} {test}"


def main() -> int:
    """Collects without running; 0 when every test file could be read."""
    collector = Collector()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main(["--collect-only", "--quiet"], plugins=[collector])
    if status != pytest.ExitCode.OK:
        print(said.getvalue(), file=sys.stderr)  # noqa: T201 - a file that cannot be read holds no promise
    for line in table(collector.held):
        print(line)  # noqa: T201 - the table is what this command is for
    tests = {test for names in collector.held.values() for test in names}
    print(f"{len(collector.held)} promises are held by {len(tests)} tests")  # noqa: T201
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
