"""What has to hold at the end of a run, beyond what was judged at every commit (`truth`)."""

from typing import TYPE_CHECKING

from contracts.scheduler import TERMINAL_STATES
from tests.simulation.clients import Client

if TYPE_CHECKING:
    from tests.simulation.run import Simulation

SAID_ONCE = frozenset({"malbox.plugin.started.v1", "malbox.plugin.finished.v1", "malbox.sample.started.v1"})
"""Facts whose ids are derived from what they say: they come twice only if an inbox forgets."""


class Judge:
    """Looks at what one simulation left, and writes down what must not be."""

    def __init__(self, sim: "Simulation") -> None:
        self._sim = sim
        self._wrong = sim.truth.wrong
        self._databases = sim.stores.databases

    def judge(self, *, rest_s_max: float, limit_s: float) -> None:
        """Everything came to rest in time, and what is left is right."""
        rest_s = self._sim.rest_s
        if rest_s < 0:
            self._wrong(f"nothing came to rest in {limit_s:.0f} s: {', '.join(self._states())}")
        if rest_s > rest_s_max:
            self._wrong(f"it took {rest_s:.0f} s after the last fault until everything was at rest")
        for client in self._sim.clients:
            self._judge_end(client)
            self._judge_results(client)
            self._judge_facts(client)
        self._judge_projections()

    def _states(self) -> list[str]:
        stores = self._sim.stores
        tasks = [
            f"{client.name} is {stores.task_state(client.task_id) if client.is_accepted else 'not accepted'}"
            for client in self._sim.clients
        ]
        machines = [f"{spec.machine_id} is {stores.machine_state(spec.machine_id)}" for spec in self._sim.around.specs]
        return [*tasks, *machines]

    def _judge_end(self, client: Client) -> None:
        """What ended, ended once."""
        ends = self._sim.truth.ends[client.task_id]
        if self._sim.stores.task_state(client.task_id) in TERMINAL_STATES and ends != 1:
            self._wrong(f"{client.name} has {ends} ends")

    def _judge_results(self, client: Client) -> None:
        """No result under another task: what a guest handed out says whose sample it is."""
        rows = self._databases["results"].run("SELECT name, sha256 FROM results WHERE task_id = $1", (client.task_id,))
        for row in rows:
            content = self._sim.blob_content.get(row["sha256"], b"")
            if content.startswith(b"evidence of ") and not content.startswith(f"evidence of {client.name} ".encode()):
                self._wrong(f"{client.name} has the result {row['name']}: {content!r}")
            self._sim.counts["results judged"] += 1

    def _judge_facts(self, client: Client) -> None:
        """What a stage said once is shown once, and no result was lost on the way to the report."""
        shown = self._databases["scheduler"].run(
            "SELECT type, details, count(*) AS n FROM task_facts WHERE task_id = $1 GROUP BY type, details",
            (client.task_id,),
        )
        for row in shown:
            if row["n"] > 1 and row["type"] in SAID_ONCE:
                self._wrong(f"{client.name}: {row['type']} is shown {row['n']} times")
        reports = self._databases["results"].run("SELECT missing FROM reports WHERE task_id = $1", (client.task_id,))
        if any(row["missing"] for row in reports):
            self._wrong(f"the report of {client.name} misses {reports[0]['missing']}")

    def _judge_projections(self) -> None:
        """Rows are what a replay of the events makes of them."""
        truth = self._sim.truth
        for spec in self._sim.around.specs:
            machine = truth.machine(spec.machine_id)
            row = self._databases["machines"].run(
                "SELECT state, epoch FROM fleet WHERE machine_id = $1", (spec.machine_id,)
            )
            if machine is not None and row and (row[0]["state"], row[0]["epoch"]) != (machine.state, machine.epoch):
                self._wrong(f"the row of {spec.machine_id} says {row[0]}, its events {machine.state}")
        for client in self._sim.clients:
            task, shown = truth.task(client.task_id), self._sim.stores.task_state(client.task_id)
            if task is not None and task.state != shown:
                self._wrong(f"the row of {client.name} is {shown}, its events {task.state}")
