"""A unit and its own statements are one statement, in which each finds its own parameters."""

import pytest

from services.chassis.joined import COMMIT, UNIT_PARAMETERS, joined

pytestmark = pytest.mark.promise("P15")


def test_a_unit_without_statements_is_the_call_alone() -> None:
    """Nothing stands beside it."""
    assert joined(()) == COMMIT
    assert COMMIT.count("$") == UNIT_PARAMETERS


def test_every_statement_keeps_its_own_parameters() -> None:
    """They stand behind those of the unit, in the order of the statements, also where one uses a parameter twice."""
    statements = (
        ("INSERT INTO a VALUES ($1, $2)", 2),
        ("SELECT call($1, $1)", 1),
        ("UPDATE b SET c = $1\n    WHERE d = $2", 2),
    )
    assert joined(statements).splitlines() == [
        "WITH",
        "write_1 AS (INSERT INTO a VALUES ($21, $22)),",
        "write_2 AS (UPDATE b SET c = $24 WHERE d = $25)",
        f"{COMMIT},",
        "call($23, $23)",
    ]
