"""The queue in the store: every statement on it stands here. What it decides is said in `policy/turns.py`."""

from importlib.resources import files

from contracts.planning import Budgets
from services.chassis.store import Store
from services.chassis.unit import Unit
from services.scheduler.domain.task import Task
from services.scheduler.policy.turns import ANY, cost_s, occupation

MIGRATION = (files("services.scheduler") / "queue.sql").read_text(encoding="utf-8")
MIGRATION_WAITS = (files("services.scheduler") / "waits.sql").read_text(encoding="utf-8")
MIGRATION_LOOKS = (files("services.scheduler") / "waits_2.sql").read_text(encoding="utf-8")
MIGRATION_WISHES = "DELETE FROM work WHERE kind = 'dispatch'"  # what was once remembered of a wish to look
SEATING = frozenset({"Queued", "Matched", "MatchRefused", "MachineGranted", "MachineReturned", "StageEnded", "Refused"})
"""The events after which a task's place is another."""
MACHINES_COUNTED_MAX = 10_000

PICK = """
WITH ready AS MATERIALIZED (SELECT machine_id, host, epoch, profile, routes FROM pool WHERE is_ready),
offers AS (
    SELECT DISTINCT profile, route, '' AS machine_id FROM ready CROSS JOIN unnest(routes) AS route
    UNION ALL SELECT profile, route, machine_id FROM ready CROSS JOIN unnest(routes) AS route),
best AS (
    SELECT head.* FROM offers CROSS JOIN LATERAL (
        SELECT * FROM heads
        WHERE is_open AND profile = offers.profile AND route = offers.route AND machine_id = offers.machine_id
        ORDER BY priority DESC, share, queued_at, task_id LIMIT 1) AS head
    ORDER BY priority DESC, share, queued_at, task_id LIMIT 1)
SELECT best.task_id, chosen.machine_id, chosen.host, chosen.epoch FROM best CROSS JOIN LATERAL (
    SELECT ready.machine_id, host, epoch FROM ready
    WHERE ready.profile = best.profile AND best.route = ANY(ready.routes)
    AND best.machine_id IN ('', ready.machine_id)
    ORDER BY EXISTS (
        SELECT FROM unnest(ready.routes) AS offered CROSS JOIN LATERAL (
            SELECT FROM heads WHERE heads.is_open AND heads.profile = ready.profile AND heads.route = offered
            AND heads.machine_id = ready.machine_id
            ORDER BY priority DESC, share, queued_at, task_id LIMIT 1) AS asked_by_name),
    cardinality(ready.routes), ready.machine_id LIMIT 1) AS chosen
"""


async def pick(store: Store) -> tuple[str, str, str, int] | None:
    """(task, machine, host, machine's epoch) of the next match, or None."""
    row = await store.fetchrow(PICK)
    return None if row is None else (row["task_id"], row["machine_id"], row["host"], row["epoch"])


def seat(unit: Unit, task: Task) -> None:
    """The task's place, in the queue or at a machine, is what its state says."""
    if task.wants_machine:
        enter(unit, task)
    elif task.guest is not None or (task.state == "preparing" and task.is_guest_due):
        epoch = task.guest.lease.epoch if task.guest else None
        unit.execute(
            "SELECT take_machine($1, $2, $3, $4, $5, $6)",
            task.task_id,
            task.owner,
            task.request.priority,
            cost_s(task.request),
            task.machine_id,
            epoch,
        )
    else:
        unit.execute("SELECT stand_aside($1, $2)", task.task_id, task.owner)


def enter(unit: Unit, task: Task) -> None:
    """The task waits for a machine."""
    unit.execute(
        "SELECT enter_queue($1, $2, $3, $4, $5, $6, $7, $8)",
        task.task_id,
        task.owner,
        task.request.priority,
        task.request.profile,
        task.request.machine or ANY,
        task.request.terms,
        task.created_on,
        cost_s(task.request),
    )


async def holders(store: Store, machine_id: str, epoch: int) -> list[str]:
    """The tasks that hold a lease on the machine from before that epoch."""
    rows = await store.fetch("SELECT task_id FROM holding WHERE machine_id = $1 AND epoch < $2", machine_id, epoch)
    return [row["task_id"] for row in rows]


async def stranded(store: Store) -> str | None:
    """A task that waits though no machine that is known could ever run it, if there is one."""
    row = await store.fetchrow(
        "SELECT task_id FROM heads WHERE NOT EXISTS (SELECT FROM pool WHERE NOT is_retired "
        "AND pool.profile = heads.profile AND heads.route = ANY(pool.routes) "
        "AND heads.machine_id IN ('', pool.machine_id)) LIMIT 1"
    )
    return None if row is None else str(row["task_id"])


async def obstacle(store: Store, task: Task) -> str:
    """Why the waiting task does not run now, in words."""
    request = task.request
    row = await store.fetchrow(
        "SELECT running_per_owner_max AS most, may_have_more($1) AS may_have_more FROM rules", task.owner
    )
    if row is not None and not row["may_have_more"]:
        return f"{task.owner} has {row['most']} tasks on machines, which is the limit of one owner"
    machines = await store.fetch(
        "SELECT machine_id, CASE WHEN is_ready THEN 'ready' ELSE condition END AS condition FROM pool "
        "WHERE NOT is_retired AND profile = $1 AND $2 = ANY(routes) AND $3 IN ('', machine_id) ORDER BY machine_id "
        "LIMIT $4",
        request.profile,
        request.terms,
        request.machine or ANY,
        MACHINES_COUNTED_MAX,
    )
    return occupation({machine["machine_id"]: machine["condition"] for machine in machines})


async def budgets(store: Store) -> Budgets:
    """How long each phase of a new task may take."""
    row = await store.fetchrow("SELECT budgets::text AS budgets FROM rules")
    return Budgets.model_validate_json(row["budgets"]) if row else Budgets()


async def keep_rules(store: Store, *, running_per_owner_max: int, budgets: Budgets) -> None:
    """The store's functions know what the settings say; owners that may have more, or less, than before do at once."""
    async with store.transaction() as connection:
        await connection.execute(
            "UPDATE rules SET running_per_owner_max = $1, budgets = $2",
            running_per_owner_max,
            budgets.model_dump_json(),
        )
        await connection.execute("SELECT open_lanes(owner) FROM (SELECT DISTINCT owner FROM heads) AS owners")
