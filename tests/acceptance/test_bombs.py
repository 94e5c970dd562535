"""A guest that takes whatever it can get leaves its host to the others."""

from pathlib import Path

import pytest

from deploy.local import guest_group
from deploy.local.state import SERVICES, State
from services.machines.adapters import qemu_processes
from tests.acceptance import samples
from tests.acceptance.installation import Installation

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]
ROUNDS = 5


@pytest.mark.promise("P26", "P9")
def test_a_guest_that_bombs_its_machine_leaves_the_services_answering(
    installation: Installation, tmp_path: Path
) -> None:
    """Processes and memory without end: every service answers meanwhile, and the machine comes back clean.

    Its emulator is in the group that the limits are on; those are what the doctor says.
    """
    installation.wait_until_ready()
    state = State(installation.state)
    task = installation.submit(samples.write(tmp_path / "bomb.py", samples.BOMB), "--timeout", "120")
    installation.wait(task, ("running",))
    emulators = qemu_processes.of_machine(state.machines / "linux-1")
    group = guest_group.remembered(state)
    assert group is not None
    assert group.missing == {}
    assert emulators
    assert all(group.holds(pid) for pid in emulators)
    assert Path(f"/proc/{installation.pid('machines')}/mem").stat().st_uid == 0, "closed to its own user, QEMU's"
    bombed = 0
    for number in range(ROUNDS):
        shown = {part["name"]: part for part in installation.malbox("status", "--json").json()["parts"]}
        assert [name for name in SERVICES if not shown[name]["is_ready"]] == []
        sample = samples.write(tmp_path / f"meanwhile-{number}.sh", f"#!/bin/sh\ntrue # {number}\n")
        waiting = installation.submit(sample)
        assert installation.malbox("task", "list", "--json").code == 0
        bombed += installation.task(task)["state"] == "running"
        assert installation.malbox("task", "cancel", waiting).code == 0
    assert bombed, "the control: it was bombing meanwhile"
    installation.malbox("task", "cancel", task)
    assert installation.wait(task) in ("cancelled", "completed", "failed", "timed_out"), installation.task(task)
    installation.wait_until_ready()
    findings = {one["what"]: one for one in installation.malbox("doctor", "--json").json()["findings"]}
    assert findings["guest limits"]["level"] == "ok", findings["guest limits"]
    assert installation.analyse(samples.write(tmp_path / "next.sh", "#!/bin/sh\ntrue # after the bomb\n"))
