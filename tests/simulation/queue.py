"""The functions of services/scheduler/queue.sql, by hand: SQLite has none."""

from datetime import timedelta
from typing import Any

from services.scheduler import waiting
from tests.simulation.database import Database, Row
from tests.simulation.statements import words

Values = tuple[Any, ...]


def _say(database: Database, sql: str, *arguments: Any) -> list[Row]:
    return database.run(sql, arguments)


def may_have_more(database: Database, who: str) -> bool:
    """Whether the owner holds fewer machines than one may."""
    held = _say(database, "SELECT count(*) AS n FROM holding WHERE owner = $1", who)[0]["n"]
    return bool(held < _say(database, "SELECT running_per_owner_max AS most FROM rules")[0]["most"])


def refresh_lane(database: Database, lane: Values) -> None:
    """The lane's head is its first task."""
    first = _say(
        database,
        "SELECT task_id, queued_at FROM queue WHERE owner = $1 AND priority = $2 AND profile = $3 AND machine_id = $4 "
        "AND route = $5 ORDER BY queued_at, task_id LIMIT 1",
        *lane,
    )
    if not first:
        _say(
            database,
            "DELETE FROM heads WHERE owner = $1 AND priority = $2 AND profile = $3 AND machine_id = $4 AND route = $5",
            *lane,
        )
        return
    _say(
        database,
        "INSERT INTO heads SELECT $1, $2, $3, $4, $5, $6, $7, share, $8 FROM shares WHERE owner = $1 AND priority = $2 "
        "ON CONFLICT (owner, priority, profile, machine_id, route) DO UPDATE SET task_id = excluded.task_id, "
        "queued_at = excluded.queued_at WHERE heads.task_id <> excluded.task_id",
        *lane,
        first[0]["task_id"],
        first[0]["queued_at"],
        may_have_more(database, lane[0]),
    )


def open_lanes(database: Database, who: str) -> None:
    """The owner's lanes are open as long as the owner may have more."""
    _say(database, "UPDATE heads SET is_open = $2 WHERE owner = $1", who, may_have_more(database, who))


def _share_of_heads(database: Database, who: str, rank: int) -> None:
    _say(
        database,
        "UPDATE heads SET share = shares.share FROM shares WHERE heads.owner = $1 AND heads.priority = $2 "
        "AND shares.owner = $1 AND shares.priority = $2",
        who,
        rank,
    )


@words("SELECT enter_queue($1, $2, $3, $4, $5, $6, $7, $8)")
def enter_queue(database: Database, arguments: Values) -> list[Row]:
    """The task waits."""
    task, who, rank, profile, machine, route, at, cost = arguments
    _say(
        database,
        "UPDATE shares SET share = share - holding.cost_s FROM holding WHERE holding.task_id = $1 "
        "AND holding.epoch IS NULL AND shares.owner = holding.owner AND shares.priority = holding.priority",
        task,
    )
    if _say(database, "DELETE FROM holding WHERE task_id = $1 RETURNING task_id", task):
        _share_of_heads(database, who, rank)
        open_lanes(database, who)
    entered = _say(
        database,
        "INSERT INTO queue (task_id, owner, profile, machine_id, route, priority, queued_at, cost_s) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING task_id",
        *(task, who, profile, machine, route, rank, at, cost),
    )
    if entered:
        _say(
            database,
            "INSERT INTO shares VALUES ($1, $2, coalesce((SELECT reached FROM clocks WHERE priority = $2), 0)) "
            "ON CONFLICT (owner, priority) DO UPDATE SET share = greatest(shares.share, excluded.share) "
            "WHERE NOT EXISTS (SELECT FROM heads WHERE owner = $1 AND priority = $2)",
            who,
            rank,
        )
        refresh_lane(database, (who, rank, profile, machine, route))
    return []


def leave_queue(database: Database, task: str, *, is_paid: bool) -> None:
    """The task waits no more."""
    gone = _say(
        database,
        "DELETE FROM queue WHERE task_id = $1 RETURNING owner, priority, profile, machine_id, route, cost_s",
        task,
    )
    if not gone:
        return
    who, rank, profile, machine, route, cost = gone[0].values()
    if is_paid:
        _say(
            database,
            "INSERT INTO clocks SELECT priority, share FROM shares WHERE owner = $1 AND priority = $2 "
            "ON CONFLICT (priority) DO UPDATE SET reached = greatest(clocks.reached, excluded.reached)",
            who,
            rank,
        )
        _say(
            database,
            "UPDATE shares SET share = clocks.reached + $3 FROM clocks WHERE shares.owner = $1 "
            "AND shares.priority = $2 AND clocks.priority = $2",
            who,
            rank,
            cost,
        )
        _share_of_heads(database, who, rank)
    refresh_lane(database, (who, rank, profile, machine, route))


@words("SELECT take_machine($1, $2, $3, $4, $5, $6)")
def take_machine(database: Database, arguments: Values) -> list[Row]:
    """The task was promised the machine, or has it."""
    task, who, rank, cost, machine, epoch = arguments
    moved = "UPDATE holding SET machine_id = $2, epoch = $3 WHERE task_id = $1 RETURNING task_id"
    if _say(database, moved, task, machine, epoch):
        return []
    leave_queue(database, task, is_paid=True)
    _say(
        database,
        "INSERT INTO holding VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (task_id) DO UPDATE "
        "SET machine_id = excluded.machine_id, epoch = excluded.epoch",
        *(task, who, rank, cost, machine, epoch),
    )
    open_lanes(database, who)
    return []


@words("SELECT stand_aside($1, $2)")
def stand_aside(database: Database, arguments: Values) -> list[Row]:
    """The task neither waits nor has a machine."""
    task, who = arguments
    leave_queue(database, task, is_paid=False)
    if _say(database, "DELETE FROM holding WHERE task_id = $1 RETURNING task_id", task):
        open_lanes(database, who)
    return []


@words("SELECT stand_aside($1, '')")
def stand_aside_unknown(database: Database, arguments: Values) -> list[Row]:
    """The same of a task that nobody knows."""
    return stand_aside(database, (*arguments, ""))


@words("SELECT open_lanes(owner) FROM (SELECT DISTINCT owner FROM heads) AS owners")
def open_all_lanes(database: Database, _arguments: Values) -> list[Row]:
    """Every owner's lanes are open as long as the owner may have more."""
    for row in _say(database, "SELECT DISTINCT owner FROM heads ORDER BY owner"):
        open_lanes(database, row["owner"])
    return []


@words("SELECT look_again($1, $2)")
def look_again(database: Database, arguments: Values) -> list[Row]:
    """The task is looked at again after so long, if ever."""
    task, delay = arguments
    _say(database, "DELETE FROM work WHERE kind = 'wait' AND key = $1", task)
    if delay is not None:
        _say(
            database,
            "INSERT INTO work (kind, key, payload, due_at) VALUES ('wait', $1, json_object('task_id', $1), now() + $2)",
            task,
            delay,
        )
    return []


@words("SELECT put_off_look($1, $2)")
def put_off_look(database: Database, arguments: Values) -> list[Row]:
    """The look at the task is put off by so long, unless it is due."""
    task, delay = arguments
    due = "SELECT 1 FROM work WHERE kind = 'wait' AND key = $1 AND due_at <= now()"
    return look_again(database, (task, timedelta() if delay is not None and _say(database, due, task) else delay))


@words("SELECT running_per_owner_max AS most, may_have_more($1) AS may_have_more FROM rules")
def rules(database: Database, arguments: Values) -> list[Row]:
    """How many machines an owner may hold, and whether this one may have more."""
    most = _say(database, "SELECT running_per_owner_max AS most FROM rules")
    return [Row(row, may_have_more=may_have_more(database, arguments[0])) for row in most]


@words(waiting.PICK)
def pick(database: Database, _arguments: Values) -> list[Row]:
    """The next match of a waiting task and a ready machine."""
    best = _say(
        database,
        "SELECT h.* FROM heads h WHERE h.is_open AND EXISTS (SELECT 1 FROM pool p WHERE p.is_ready "
        "AND p.profile = h.profile AND h.route = ANY(p.routes) AND h.machine_id IN ('', p.machine_id)) "
        "ORDER BY priority DESC, share, queued_at, task_id LIMIT 1",
    )
    if not best:
        return []
    fitting = _say(
        database,
        "SELECT p.machine_id, p.host, p.epoch FROM pool p WHERE p.is_ready AND p.profile = $1 AND $2 = ANY(p.routes) "
        "AND $3 IN ('', p.machine_id) ORDER BY EXISTS (SELECT 1 FROM heads h WHERE h.is_open AND h.profile = p.profile "
        "AND h.route = ANY(p.routes) AND h.machine_id = p.machine_id), json_array_length(p.routes), p.machine_id "
        "LIMIT 1",
        best[0]["profile"],
        best[0]["route"],
        best[0]["machine_id"],
    )
    return [Row(task_id=best[0]["task_id"], **machine) for machine in fitting]
