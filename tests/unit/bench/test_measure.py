"""What the benchmark says of its figures."""

import math

import pytest

from tests.bench.measure import Failure, Reference, Row, figure, medians, percentile, table

REFERENCE = Reference("peers 2 s", "<= 1 s")


def row(*values: float) -> Row:
    return Row(name="a row", what_ran="real servers", unit="s", values=values, reference=REFERENCE)


def test_a_row_is_the_median_of_its_runs_with_their_extremes() -> None:
    """One slow run moves the spread and not the figure."""
    measured = row(1.0, 9.0, 2.0, 3.0, 2.5)
    assert measured.median == 2.5
    assert measured.spread == (1.0, 9.0)


def test_a_row_without_runs_is_not_a_number() -> None:
    """Nothing measured is never shown as zero."""
    assert math.isnan(row().median)
    assert "-" in table([row()])


def test_the_table_states_peers_and_goal_beside_each_figure() -> None:
    """A figure is never printed without what it is compared with."""
    said = table([row(1.0, 2.0, 3.0, 4.0, 5.0)])
    line = next(line for line in said.splitlines() if line.startswith("a row "))
    assert "peers 2 s" in line
    assert "<= 1 s" in line
    assert "real servers" in said


def test_few_runs_are_called_an_indication() -> None:
    """Fewer runs than five are not passed off as a figure."""
    assert "only 2 runs" in table([row(1.0, 2.0)])
    assert "only" not in table([row(1.0, 2.0, 3.0, 4.0, 5.0)])


def test_a_row_that_could_not_be_measured_stays_in_the_table() -> None:
    """A failure is shown with its reason."""
    said = table([Failure("guest", "no image")])
    assert "FAILED" in said
    assert "no image" in said


@pytest.mark.parametrize(("share", "expected"), [(0.5, 3.0), (0.95, 5.0), (0.01, 1.0), (1.0, 5.0)])
def test_a_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    """It is always one of the values."""
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], share) == expected


def test_medians_are_taken_over_the_runs_that_have_the_part() -> None:
    """A part that one run lacks does not spoil the others, and the order of the first run is kept."""
    assert list(medians([{"b": 1.0, "a": 4.0}, {"b": 3.0}]).items()) == [("b", 2.0), ("a", 4.0)]


@pytest.mark.parametrize(("value", "shown"), [(1234.5, "1,234"), (0.01234, "0.0123"), (12.345, "12.3")])
def test_a_figure_has_three_digits(value: float, shown: str) -> None:
    """More digits would promise more than was measured."""
    assert figure(value) == shown
