"""docs/reference/messages.md: every fact and command, who says it, who hears it, and what is in it."""

from collections.abc import Iterator

from contracts.catalogue import BY_TYPE, COMMANDS, FACTS
from contracts.envelope import Envelope, Message
from contracts.limits import MESSAGE_MAX_BYTES
from deploy.docs.conversation import first_sentence, heard_by, is_command, said_in
from deploy.docs.shapes import sections, shapes_of, table, table_of
from deploy.local.state import SERVICES

HEAD = f"""# Messages

Generated from `contracts/` and the services' code by `make docs`; a test holds it to them.

A **fact** says what happened. It goes to the topic exchange `malbox.facts` under its routing key, and, unless that key
ends in `private`, into the stream `malbox.audit`. A **command** is an order of the scheduler. It goes to the direct
exchange `malbox.commands`; its routing key is the receiving service, and for machines also the host. A message is
CloudEvents 1.0 in JSON, at most {MESSAGE_MAX_BYTES // 1024} KiB with its envelope. For programs:
[AsyncAPI](asyncapi.json), and one JSON Schema of each message in [schemas/](schemas/). One example of each stands in
`tests/contracts/golden/`.
"""


def page() -> str:
    """The page."""
    return (
        "\n".join(
            [HEAD, *_overview(), *_envelope(), *_by_producer(), *_commands(), *_shapes()],
        ).rstrip()
        + "\n"
    )


def _overview() -> Iterator[str]:
    yield "## All of them\n"
    yield "| message | | from | to | says |"
    yield "|---|---|---|---|---|"
    for kind in BY_TYPE.values():
        word = "command" if is_command(kind) else "fact"
        yield (
            f"| [{kind.__name__}](#{kind.__name__.lower()}) | {word} | {kind.PRODUCER} | {_hearers(kind)} "
            f"| {first_sentence(kind.__doc__)} |"
        )


def _envelope() -> Iterator[str]:
    yield "\n## The envelope\n"
    yield from table(Envelope)


def _by_producer() -> Iterator[str]:
    for service in SERVICES:
        yield f"\n## Facts of {service}"
        for kind in FACTS:
            if service == kind.PRODUCER:
                yield from _message(kind)


def _commands() -> Iterator[str]:
    yield "\n## Commands"
    for kind in COMMANDS:
        yield from _message(kind)


def _message(kind: type[Message]) -> Iterator[str]:
    yield f"\n### {kind.__name__}\n"
    yield " ".join((kind.__doc__ or "").split()) + "\n"
    if is_command(kind):
        receiver = getattr(kind, "RECEIVER", "")
        key = f"`{receiver}.<host>`" if "host" in kind.model_fields else f"`{receiver}`"
    else:
        key = f"`{kind.routing_key()}`"
    yield f"- type `{kind.type_name()}`, routing key {key}"
    said = ", ".join(f"`services/{kind.PRODUCER}/{path}`" for path in said_in(kind))
    yield f"- said in {said}" if said else "- defined; nothing says it yet"
    yield f"- heard by {_hearers(kind)}"
    yield f"- schema [{kind.type_name()}.json](schemas/{kind.type_name()}.json)\n"
    yield from table_of(schema := kind.model_json_schema(), schema.get("$defs", {}))


def _hearers(kind: type[Message]) -> str:
    return ", ".join(heard_by(kind)) or ("the audit stream only" if kind.PUBLIC else "nobody yet")


def _shapes() -> Iterator[str]:
    yield "\n## Shapes inside messages"
    yield from sections(shapes_of(*BY_TYPE.values()))
