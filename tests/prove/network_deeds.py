"""What somebody with the host in their hands may do to a machine's analysis network. None of it is announced."""

import json
import os
import signal

from deploy.local import processes
from services.machines.network.layout import CARD
from services.machines.network.namespace import IP, NFT, Namespace
from tests.prove.ground import Ground
from tests.prove.namespaces import machine_of_cable


async def rules_flushed(ground: Ground) -> None:
    """The rules of its network are flushed: nothing is dropped there any more."""
    await _inside(ground, NFT, "flush", "ruleset")


async def rule_removed(ground: Ground) -> None:
    """The last rule at its cable is removed, which counts and drops what no other accepts."""
    chain = ("netdev", "guard", "arriving")
    listed = json.loads(await _inside(ground, NFT, "-j", "list", "chain", *chain))["nftables"]
    handle = [entry["rule"]["handle"] for entry in listed if "rule" in entry][-1]
    await _inside(ground, NFT, "delete", "rule", *chain, "handle", str(handle))


async def card_taken_down(ground: Ground) -> None:
    """The network's end of its cable is down."""
    await _inside(ground, IP, "link", "set", CARD, "down")


async def card_deleted(ground: Ground) -> None:
    """The network's end of its cable is no interface any more."""
    await _inside(ground, IP, "link", "delete", CARD)


def cable_killed(ground: Ground) -> None:
    """What carries its frames died."""
    os.kill(_cable(ground), signal.SIGKILL)


async def _inside(ground: Ground, *command: str) -> str:
    inside = Namespace.at(f"/proc/{_cable(ground)}/ns/net")
    try:
        return await inside.run(*command)
    finally:
        inside.close()


def _cable(ground: Ground) -> int:
    """The process that carries the machine's frames. Raises AssertionError where there is none."""
    run = [one.pid for one in processes.leftovers(ground.here.state)]
    found = [pid for pid in run if machine_of_cable(pid, [ground.machine_id])]
    assert found, f"{ground.machine_id} has no analysis network: only root gives it one, and only for a route"
    return found[0]
