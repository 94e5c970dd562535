"""CloudEvents 1.0 in structured JSON: the envelope of every fact and command.

A message class says who produces it, what it is about and which version it is; `wrap` and `unwrap` turn it into the
envelope and back. Source of the attributes: CloudEvents 1.0.2 and its Distributed Tracing extension.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.limits import MESSAGE_MAX_BYTES


class Message(BaseModel):
    """A frozen payload. Written strictly, read tolerantly (an unknown field of a newer release is ignored)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    PRODUCER: ClassVar[str]
    THING: ClassVar[str]
    WHAT: ClassVar[str]
    VERSION: ClassVar[int] = 1
    KIND: ClassVar[Literal["fact", "command"]] = "fact"
    PUBLIC: ClassVar[bool] = True

    @classmethod
    def type_name(cls) -> str:
        """The CloudEvents type, such as `malbox.machine.leased.v1`."""
        return f"malbox.{cls.THING}.{cls.WHAT}.v{cls.VERSION}"

    @classmethod
    def routing_key(cls) -> str:
        """The key on the topic exchange, such as `machines.machine.leased.v1`.

        What is not public has a fifth word, so that whoever binds `*.*.*.*` hears every public fact and nothing else.
        """
        return f"{cls.PRODUCER}.{cls.THING}.{cls.WHAT}.v{cls.VERSION}" + ("" if cls.PUBLIC else ".private")

    def subject(self) -> str:
        """The id of the aggregate that the message is about."""
        raise NotImplementedError


class Command(Message):
    """An order from the scheduler to one service."""

    KIND: ClassVar[Literal["fact", "command"]] = "command"
    PRODUCER: ClassVar[str] = "scheduler"
    RECEIVER: ClassVar[str]
    PUBLIC: ClassVar[bool] = False

    def receiver(self) -> str:
        """The routing key on the command exchange: the receiving service, and the host where that matters."""
        return self.RECEIVER


class EnvelopeError(ValueError):
    """The bytes are not an envelope of a message that this release knows."""


class Envelope(BaseModel):
    """The CloudEvents attributes and the payload as a plain mapping."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(min_length=1, max_length=200)
    source: str
    type: str
    subject: str
    time: datetime
    datacontenttype: str = "application/json"
    dataschema: str
    correlationid: str | None = None
    causationid: str | None = None
    sequence: str | None = None
    traceparent: str | None = None
    data: dict[str, Any]

    @classmethod
    def wrap(
        cls,
        message: Message,
        *,
        message_id: str,
        source: str,
        at: datetime,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        sequence: int | None = None,
        traceparent: str | None = None,
    ) -> Self:
        """An envelope around a message.

        `sequence` counts per subject; it is a string on the wire because the CloudEvents extension says so.
        """
        return cls(
            id=message_id,
            source=f"malbox/{source}",
            type=message.type_name(),
            subject=message.subject(),
            time=at,
            dataschema=f"urn:malbox:schema:{message.type_name()}",
            correlationid=correlation_id,
            causationid=causation_id,
            sequence=None if sequence is None else f"{sequence:020d}",
            traceparent=traceparent,
            data=message.model_dump(mode="json"),
        )

    def to_json(self) -> bytes:
        """The wire form. Raises EnvelopeError over 64 KiB."""
        body = self.model_dump_json(exclude_none=True).encode()
        if len(body) > MESSAGE_MAX_BYTES:
            raise EnvelopeError(f"{self.type} is {len(body)} bytes; the limit is {MESSAGE_MAX_BYTES}")
        return body

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Read the wire form. Raises EnvelopeError when it is not one, or is over 64 KiB."""
        if len(body) > MESSAGE_MAX_BYTES:
            raise EnvelopeError(f"message of {len(body)} bytes; the limit is {MESSAGE_MAX_BYTES}")
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise EnvelopeError(f"not a CloudEvents envelope: {error.error_count()} faults") from error
