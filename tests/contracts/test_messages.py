"""Every message ever published stays readable, and its schema is what the golden files say."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from pydantic import BaseModel

from contracts.catalogue import BY_TYPE, unwrap
from contracts.envelope import Envelope, EnvelopeError, Message
from contracts.limits import MESSAGE_MAX_BYTES
from tests.contracts.examples import EXAMPLES, GROWN

GOLDEN = Path(__file__).parent / "golden"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def envelope(message: Message) -> Envelope:
    """The message as it travels."""
    return Envelope.wrap(message, message_id="msg_1", source="test", at=AT, correlation_id="tsk_1", sequence=7)


def as_far_as(golden: object, written: object) -> object:
    """What is written today, without the fields that the golden file does not know."""
    if isinstance(golden, dict) and isinstance(written, dict):
        return {name: as_far_as(golden[name], value) for name, value in written.items() if name in golden}
    if isinstance(golden, list) and isinstance(written, list) and len(golden) == len(written):
        return [as_far_as(*pair) for pair in zip(golden, written, strict=True)]
    return written


@pytest.mark.promise("P51")
@pytest.mark.parametrize("name", sorted(BY_TYPE))
def test_every_message_has_a_golden_example_and_still_reads_it(name: str) -> None:
    """A golden file is added to, never edited: what it holds must be read for ever, and written just so today.

    Fields that came later are written as well; that the example is what was read says that they are optional.
    """
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    example = next(one for one in EXAMPLES if one.type_name() == name)
    assert unwrap(Envelope.from_json(json.dumps(golden).encode())) == example
    assert as_far_as(golden, json.loads(envelope(example).to_json())) == golden


@pytest.mark.promise("P51")
@pytest.mark.parametrize("name", sorted(GROWN))
def test_a_field_that_came_later_has_an_example_of_its_own(name: str) -> None:
    """The first golden file stays as it is; another shows the message with what was added."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert unwrap(Envelope.from_json(json.dumps(golden).encode())) == GROWN[name]
    assert as_far_as(golden, json.loads(envelope(GROWN[name]).to_json())) == golden


def test_there_is_an_example_of_every_message() -> None:
    """No message without one."""
    assert sorted(example.type_name() for example in EXAMPLES) == sorted(BY_TYPE)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.type_name())
def test_an_unknown_field_of_a_newer_release_is_ignored(example: Message) -> None:
    """Read tolerantly."""
    body = json.loads(envelope(example).to_json())
    body["data"]["added_later"] = 1
    assert unwrap(Envelope.from_json(json.dumps(body).encode())) == example


@pytest.mark.promise("P14")
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff\xfe", b'{"specversion":"1.0"}', b"x" * (MESSAGE_MAX_BYTES + 1)]
)
def test_what_is_not_an_envelope_is_refused_by_name(body: bytes) -> None:
    """Poison is recognised before anything believes it."""
    with pytest.raises(EnvelopeError):
        Envelope.from_json(body)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.type_name())
def test_the_official_sdk_reads_every_message(example: Message) -> None:
    """CloudEvents 1.0, as its own SDK sees it."""
    event = JSONFormat().read(None, envelope(example).to_json())
    assert event.get_type() == example.type_name()
    assert event.get_subject() == example.subject()
    assert event.get_data() == example.model_dump(mode="json")


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """The model's schema without prose."""
    return model.model_json_schema()


def test_no_fact_carries_a_secret() -> None:
    """Names that would hold one do not occur in any public schema; an archive's password is not a secret."""
    for message in BY_TYPE.values():
        text = json.dumps(fields(message)).lower()
        assert not any(word in text for word in ("private", "key_pem", "token"))
