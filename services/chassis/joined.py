"""A unit as one statement: one trip to the database, and no transaction that waits for its process in the middle.

`commit_unit` raises where the unit must not stand, which undoes the statements beside it. They all see the database as
it was before any of them: no two statements of a unit may touch the same row, and none sees what another writes.
"""

import re
from functools import lru_cache
from itertools import accumulate

UNIT_PARAMETERS = 20
COMMIT = f"SELECT commit_unit({','.join(f'${number}' for number in range(1, UNIT_PARAMETERS + 1))})"
_CALL = "SELECT "
_PARAMETER = re.compile(r"\$(\d+)")


@lru_cache(maxsize=1024)
def joined(statements: tuple[tuple[str, int], ...]) -> str:
    """`commit_unit` and, beside it, each (statement, count of its parameters), their parameters behind its own.

    A statement is an INSERT, UPDATE or DELETE, or one call of a function: calls come after `commit_unit`.
    """
    before = accumulate((count for _, count in statements), initial=UNIT_PARAMETERS)
    parts = [_renumbered(sql, first) for (sql, _), first in zip(statements, before, strict=False)]
    calls = [part.removeprefix(_CALL) for part in parts if part.startswith(_CALL)]
    writes = [part for part in parts if not part.startswith(_CALL)]
    named = ",\n".join(f"write_{number} AS ({part})" for number, part in enumerate(writes, start=1))
    return (f"WITH\n{named}\n" if named else "") + ",\n".join((COMMIT, *calls))


def _renumbered(sql: str, behind: int) -> str:
    return _PARAMETER.sub(lambda found: f"${int(found[1]) + behind}", " ".join(sql.split()))
