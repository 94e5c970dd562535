"""What exists on the broker from the start, and who may do what there (contracts: exchanges and queues)."""

import base64
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from deploy.local.secrets import BROKER_ADMIN, INTEGRATOR
from deploy.local.state import SERVICES

FACTS = "malbox.facts"
COMMANDS = "malbox.commands"
AUDIT = "malbox.audit"
EVERY_PUBLIC_FACT = "*.*.*.*"  # a fifth word marks what services tell each other only
COMMANDER = "scheduler"
AUDIT_BYTES_MAX = 2 * 1024**3
TOPOLOGY = Path(__file__).parent / "topology.json"
_SALT_BYTES = 4


def definitions(vhost: str, passwords: dict[str, str]) -> dict[str, Any]:
    """The broker's definitions: users, rights, exchanges, the audit stream, and every queue of the services."""
    topology = json.loads(TOPOLOGY.read_text(encoding="utf-8"))
    return {
        "users": [_user(name, password) for name, password in passwords.items()],
        "vhosts": [{"name": vhost}],
        "permissions": [_permission(vhost, name) for name in passwords],
        "topic_permissions": [_topic_permission(vhost, name) for name in (*SERVICES, INTEGRATOR) if name in passwords],
        "exchanges": [
            _exchange(vhost, FACTS, "topic"),
            _exchange(vhost, COMMANDS, "direct"),
            *(_exchange(vhost, name, "direct") for name in topology["exchanges"]),
        ],
        "queues": [_audit_stream(vhost), *(_quorum_queue(vhost, *queue) for queue in topology["queues"].items())],
        "bindings": [
            _binding(vhost, FACTS, EVERY_PUBLIC_FACT, AUDIT),
            *(_binding(vhost, *binding) for binding in topology["bindings"]),
        ],
    }


def password_hash(password: str, salt: bytes) -> str:
    """RabbitMQ's salted SHA-256: base64(salt + sha256(salt + password)), see its guide to passwords."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def rights(name: str) -> tuple[str, str, str]:
    """What a user may configure, write and read, as patterns over the names of queues and exchanges."""
    if name == BROKER_ADMIN:
        return ".*", ".*", ".*"
    if name == INTEGRATOR:
        return r"^integrator\..*$", r"^integrator\..*$", _any_of([r"integrator\..*", FACTS, AUDIT])
    own = rf"{name}\..*"
    # Binding a queue takes the right to read the exchange; the shared ones are made by these definitions alone.
    writes = [own, FACTS, *([COMMANDS] if name == COMMANDER else [])]
    reads = [own, FACTS, COMMANDS, *([AUDIT] if name == COMMANDER else [])]
    return _any_of([own]), _any_of(writes), _any_of(reads)


def _any_of(names: list[str]) -> str:
    return "^(" + "|".join(name if "\\" in name else re.escape(name) for name in names) + ")$"


def _user(name: str, password: str) -> dict[str, Any]:
    return {
        "name": name,
        "password_hash": password_hash(password, os.urandom(_SALT_BYTES)),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": ["administrator"] if name == BROKER_ADMIN else [],
    }


def _permission(vhost: str, name: str) -> dict[str, str]:
    configure, write, read = rights(name)
    return {"user": name, "vhost": vhost, "configure": configure, "write": write, "read": read}


def _topic_permission(vhost: str, name: str) -> dict[str, str]:
    """A service states only its own facts: routing keys begin with the producer's name. Others bind to public ones."""
    read = r"^[^.#]+(\.[^.#]+){3}$" if name == INTEGRATOR else ".*"
    return {"user": name, "vhost": vhost, "exchange": FACTS, "write": rf"^{name}\..*", "read": read}


def _exchange(vhost: str, name: str, kind: str) -> dict[str, Any]:
    return {
        "name": name,
        "vhost": vhost,
        "type": kind,
        "durable": True,
        "auto_delete": False,
        "internal": False,
        "arguments": {},
    }


def _binding(vhost: str, source: str, routing_key: str, queue: str) -> dict[str, Any]:
    return {
        "source": source,
        "vhost": vhost,
        "destination": queue,
        "destination_type": "queue",
        "routing_key": routing_key,
        "arguments": {},
    }


def _quorum_queue(vhost: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "vhost": vhost,
        "durable": True,
        "auto_delete": False,
        "arguments": {"x-queue-type": "quorum", **arguments},
    }


def _audit_stream(vhost: str) -> dict[str, Any]:
    return {
        "name": AUDIT,
        "vhost": vhost,
        "durable": True,
        "auto_delete": False,
        "arguments": {
            "x-queue-type": "stream",
            "x-max-length-bytes": AUDIT_BYTES_MAX,
        },
    }
