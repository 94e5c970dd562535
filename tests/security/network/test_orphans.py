"""What the proofs on real guests search for of networks is found: the positive control of every "nothing"."""

import os
import signal

import pytest

from services.machines.network.layout import socket_name
from services.machines.network.namespace import IP
from tests.prove.namespaces import network_orphans
from tests.security.network.ends import as_user
from tests.security.network.lab import LEASE, Lab, until
from tests.security.network.processes import descendants

pytestmark = [pytest.mark.timeout(120)]


def found(lab: Lab, **states: str) -> list[str]:
    """Everything that is nobody's while machines are in those states."""
    machines = {name: {"state": state, "routes": ["none", "simulated"]} for name, state in states.items()}
    with as_user("root"):
        run = [lab.helper.pid, *descendants(lab.helper.pid)]
        return list(network_orphans(run, lab.directory / "network", machines))


@pytest.mark.promise("P5")
async def test_networks_links_and_sockets_of_nobody_are_found(lab: Lab) -> None:
    """Of a machine that is out of the pool, of one that is unknown, of one whose cable died; and a link too many."""
    await lab.network.plug("m", epoch=1)
    await lab.network.open("m", epoch=2, lease_id=LEASE, route="simulated")
    assert found(lab, m="active") == []
    with as_user("root"):
        inside = lab.namespace_of_guest()
        await inside.run(IP, "link", "add", "more0", "type", "veth", "peer", "name", "more1")
        inside.close()
    assert found(lab, m="active") == [f"link more{end} in the network of m" for end in (0, 1)]
    await lab.network.close("m", epoch=3)
    await lab.network.plug("m", epoch=4)
    await lab.network.plug("m1", epoch=1)
    of_m1 = f"the helper's {socket_name('m1')}"
    assert found(lab, m="ready", m1="ready") == []
    assert found(lab, m="ready", m1="retired") == ["network namespace of m1", of_m1]
    assert found(lab, m="ready") == ["network namespace of nobody", of_m1]
    with as_user("root"):
        os.kill(lab.cables()[0], signal.SIGKILL)
        await until(lambda: len(lab.cables()) == 1)
    assert found(lab, m="ready", m1="ready") == ["network namespace of nobody"]
    await lab.network.close("m", epoch=5)
    await lab.network.close("m1", epoch=5)
    assert found(lab, m="ready", m1="ready") == []
