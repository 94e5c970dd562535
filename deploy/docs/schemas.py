"""JSON Schemas of the messages and of a plugin's manifest, and the AsyncAPI 3.0 document that joins them."""

import json
from typing import Any

from contracts.catalogue import BY_TYPE
from contracts.envelope import Envelope, Message
from deploy.docs.conversation import first_sentence, heard_by, is_command, said_in
from malbox.sdk.manifest import manifest_schema
from services.chassis.run import release
from services.chassis.unit import COMMANDS_EXCHANGE, FACTS_EXCHANGE

DIALECT = "https://json-schema.org/draft/2020-12/schema"
CONTENT_TYPE = "application/cloudevents+json"
ENVELOPE = "envelope"


def files() -> dict[str, str]:
    """Name of each schema's file -> its text."""
    envelope = _text({"$schema": DIALECT, "$id": "urn:malbox:schema:envelope", **Envelope.model_json_schema()})
    return {f"{ENVELOPE}.json": envelope, **{f"{name}.json": _text(_schema(kind)) for name, kind in BY_TYPE.items()}}


def manifest() -> str:
    """The schema of a plugin's manifest as text."""
    return _text(manifest_schema())


def asyncapi() -> str:
    """The AsyncAPI document as text."""
    return _text(
        {
            "asyncapi": "3.0.0",
            "info": {
                "title": "Malbox",
                "version": release(),
                "description": "Every message between the services. Generated from the contracts by `make docs`.",
            },
            "defaultContentType": CONTENT_TYPE,
            "channels": {kind.__name__: _channel(kind) for kind in BY_TYPE.values()},
            "operations": {name: operation for kind in BY_TYPE.values() for name, operation in _operations(kind)},
            "components": {"messages": {kind.__name__: _message(kind) for kind in BY_TYPE.values()}},
        }
    )


def address(kind: type[Message]) -> str:
    """The routing key; of a command to a host's machines, with the host as a parameter."""
    if not is_command(kind):
        return kind.routing_key()
    receiver = str(getattr(kind, "RECEIVER", ""))
    return f"{receiver}.{{host}}" if "host" in kind.model_fields else receiver


def _schema(kind: type[Message]) -> dict[str, Any]:
    return {"$schema": DIALECT, "$id": f"urn:malbox:schema:{kind.type_name()}", **kind.model_json_schema()}


def _channel(kind: type[Message]) -> dict[str, Any]:
    name, kind_of = (COMMANDS_EXCHANGE, "direct") if is_command(kind) else (FACTS_EXCHANGE, "topic")
    exchange = {"name": name, "type": kind_of, "durable": True, "autoDelete": False, "vhost": "malbox"}
    channel: dict[str, Any] = {
        "address": address(kind),
        "messages": {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"}},
        "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": "0.3.0"}},
    }
    if "{host}" in address(kind):
        channel["parameters"] = {"host": {"description": "name of the hypervisor host"}}
    return channel


def _operations(kind: type[Message]) -> list[tuple[str, dict[str, Any]]]:
    name = kind.__name__
    what = {
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
    }
    sends = [(f"{kind.PRODUCER}_says_{name}", {"action": "send", **what})] if said_in(kind) else []
    return [*sends, *((f"{service}_hears_{name}", {"action": "receive", **what}) for service in heard_by(kind))]


def _message(kind: type[Message]) -> dict[str, Any]:
    body = {"properties": {"type": {"const": kind.type_name()}, "data": {"$ref": f"schemas/{kind.type_name()}.json"}}}
    return {
        "name": kind.type_name(),
        "title": kind.__name__,
        "summary": first_sentence(kind.__doc__),
        "contentType": CONTENT_TYPE,
        "payload": {"allOf": [{"$ref": f"schemas/{ENVELOPE}.json"}, body]},
    }


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
