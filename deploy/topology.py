"""Writes deploy/local/topology.json: every queue and binding of the services, for the broker's definitions.

    python -m deploy.topology [--check]

The broker is made with them, so that a fact which one service states before another has ever run is kept for it, and a
broker that lost its data starts with every queue. A test holds the file against the services' own tables.
"""

import json
import sys
from pathlib import Path
from typing import Any

from deploy.docs.conversation import handlers
from services.chassis.topology import Topology

FILE = Path(__file__).parent / "local" / "topology.json"
HOST = "local"


def topologies() -> list[Topology]:
    """What the five services listen to."""
    return [
        Topology(service, HOST, table, has_host_commands=service == "machines") for service, table in handlers().items()
    ]


def document() -> dict[str, Any]:
    """`exchanges`: the services' own; `queues`: name to arguments; `bindings`: [exchange, routing key, queue]."""
    inbound = [one for topology in topologies() for one in topology.inbound]
    return {
        "exchanges": sorted({one.own_exchange for one in inbound}),
        "queues": {name: arguments for one in inbound for name, arguments in one.queues.items()},
        "bindings": [
            *([one.exchange, key, one.name] for one in inbound for key in one.keys),
            *([one.own_exchange, key, queue] for one in inbound for key, queue in one.own_bindings),
        ],
    }


def text() -> str:
    """The document as it stands in the file."""
    return json.dumps(document(), indent=1) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(FILE.read_text(encoding="utf-8") != text())
    FILE.write_text(text(), encoding="utf-8")
