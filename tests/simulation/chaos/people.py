"""What people do: they take machines for themselves, and want them otherwise than before."""

from unittest.mock import patch

from services.machines.domain.machine import Machine
from services.machines.policy import judgement
from services.scheduler.domain.task import Task
from tests.simulation.chaos.core import Chaos, fault

WORDS = ("drain", "drain", "return", "return", "quarantine", "rebuild", "retire")


@fault(0.6, is_common=False)
async def operator(chaos: Chaos) -> None:
    """An operator speaks of machines, whether the word is possible or not."""
    words = WORDS if chaos.rng.random() < 0.3 else WORDS[:-1]

    def speak(machine: Machine) -> None:
        chaos.sim.operator.say(chaos.rng.choice(words), machine.machine_id)

    chaos.as_it_moves(Machine, 0.05, speak)
    while await chaos.after(10):
        chaos.sim.operator.say(chaos.rng.choice(words), chaos.rng.choice(chaos.sim.around.specs).machine_id)


@fault(0.3, is_common=False)
async def changed_minds(chaos: Chaos) -> None:
    """Whoever asked for a task cancels it as something happens to it."""
    sim = chaos.sim

    def cancel(task: Task) -> None:
        asked = [one for one in sim.clients if one.task_id == task.task_id and not one.is_cancelled]
        for client in asked:
            chaos.count("changed_minds")
            sim.loop.world.spawn(client.cancel(sim))

    chaos.as_it_moves(Task, 0.04, cancel)


@fault(0.25, is_common=False)
async def images_rebuilt(chaos: Chaos) -> None:
    """The image is built anew, and again."""
    while await chaos.after(25):
        chaos.count("images_rebuilt")
        chaos.sim.world.image = f"image-{chaos.rng.getrandbits(32):08x}"


@fault(0.12, is_common=False)
async def image_missing(chaos: Chaos) -> None:
    """The image is built only when the services run already."""
    chaos.count("image_missing")
    chaos.sim.world.is_image_missing = True
    await chaos.after(20)
    chaos.sim.world.is_image_missing = False


@fault(0.3, is_common=False)
async def specification_changed(chaos: Chaos) -> None:
    """The file of machines says something else of a machine."""
    specs = chaos.sim.around.specs
    while await chaos.after(25):
        number = chaos.rng.randrange(len(specs))
        chaos.count("specification_changed")
        specs[number] = specs[number].model_copy(update={"memory_mib": 1024 + chaos.rng.randrange(1024)})


@fault(0.25, is_common=False)
async def evidence_expires(chaos: Chaos) -> None:
    """Evidence of clean is good for seconds, where it is for hours else."""
    chaos.count("evidence_expires")
    age_s = 4 + chaos.rng.randrange(12)
    chaos.undone.enter_context(patch.object(judgement, "EVIDENCE_MAX_AGE_S", age_s))
