"""Who looks after the machines: gives every word that operators have, at any moment, and puts right what is theirs."""

import asyncio
from typing import TYPE_CHECKING, Any

from services.chassis.errors import MalboxError
from services.chassis.http import Problem
from services.chassis.parked import Word
from services.machines import app
from services.machines.api import _decide
from services.machines.domain.machine import Machine
from services.machines.domain.record import SELF_CURED
from tests.simulation.services import SimService

if TYPE_CHECKING:
    from tests.simulation.run import Simulation

WORDS: dict[str, app.operators.Order] = {
    "drain": app.operators.drain,
    "return": app.operators.give_back,
    "quarantine": app.operators.quarantine,
    "rebuild": app.operators.rebuild,
    "retire": app.operators.retire,
}
LOOK_S = 1.0
LOOKS_MAX = 60
"""So often the operator looks at what is still theirs when the faults are over, at most."""


class Operator:
    """Speaks to the machines service as its API does. Whoever speaks is not told when the process dies meanwhile."""

    def __init__(self, sim: "Simulation") -> None:
        self._sim = sim
        self._said: list[tuple[SimService, asyncio.Task[Any]]] = []
        self.is_done = False
        """Whether nothing is the operator's any more."""

    def say(self, word: str, machine_id: str) -> None:
        """The word is on its way, if the service can be reached."""
        service = self._sim.live.get("machines")
        if service is not None and service.is_up:
            self._said.append((service, service.process.spawn(self._say(service, word, machine_id))))

    async def put_right(self) -> None:
        """Every machine is in the pool, was retired, or is out of it for another reason than an operator's word."""
        while self._sim.absent:  # noqa: ASYNC110 - who is away hears nothing, and time is virtual
            await asyncio.sleep(LOOK_S)
        for _ in range(LOOKS_MAX):
            await asyncio.sleep(LOOK_S)
            self._said = [one for one in self._said if not (one[1].done() or one[0].process.is_dead)]
            known = [self._sim.truth.machine(spec.machine_id) for spec in self._sim.around.specs]
            waiting = [machine for machine in known if machine is not None and is_an_operators(machine)]
            if not waiting and not self._said:
                self.is_done = True
                return
            for machine in waiting if not self._said else ():
                is_to_be_built = machine.state == "quarantined" and self._sim.rng.random() < 0.5
                self.say("rebuild" if is_to_be_built else "return", machine.machine_id)
        self._sim.truth.wrong(f"an operator's words did not put right {[machine.machine_id for machine in waiting]}")

    async def _say(self, service: SimService, word: str, machine_id: str) -> None:
        counts = self._sim.counts
        try:
            await _decide(service.runtime, machine_id, Word("operator", f"said {word}"), WORDS[word])
        except Problem as problem:
            counts[f"operator_refused {problem.status}"] += 1
        except MalboxError:
            counts["operator_not_answered"] += 1
        except Exception as error:  # noqa: BLE001 - a defect, of the service or of the simulation
            self._sim.truth.wrong(f"the word {word} about {machine_id} was answered with {error!r}")
        else:
            counts[f"operator {word}"] += 1


def is_an_operators(machine: Machine) -> bool:
    """Whether the machine comes back to the pool only by an operator's word, and may."""
    if machine.state == "retired":
        return False
    if machine.state == "quarantined":
        return machine.quarantine_cause not in SELF_CURED
    return machine.state == "maintenance" or machine.drain is not None
