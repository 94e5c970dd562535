"""The wire between the agent and the process of a bundled plugin, as the agent reads it: bounded, and not believed.

A frame is one byte of kind, four bytes of length (big-endian) and the payload: `J` is a JSON object that says what it
is under "frame", `B` the bytes of the evidence that the last `J` announced.
"""

import json
import struct
from typing import Any, BinaryIO

from guest import limits

HEADER = struct.Struct(">cI")
JSON_KIND, BYTES_KIND = b"J", b"B"


class FrameRefused(ValueError):
    """What the plugin wrote is not a frame; the message says why."""


def encode(value: dict[str, Any]) -> bytes:
    """The frame of a JSON object."""
    payload = json.dumps(value, separators=(",", ":")).encode()
    return HEADER.pack(JSON_KIND, len(payload)) + payload


def read_json(stream: BinaryIO) -> dict[str, Any] | None:
    """The next object; None at the end. Raises FrameRefused."""
    payload = _read(stream, JSON_KIND, limits.PLUGIN_JSON_MAX_BYTES)
    if payload is None:
        return None
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise FrameRefused("a frame is not JSON") from error
    if not isinstance(value, dict):
        raise FrameRefused("a frame is no JSON object")
    return value


def read_bytes(stream: BinaryIO) -> bytes:
    """The bytes that were announced. Raises FrameRefused."""
    payload = _read(stream, BYTES_KIND, limits.FRAME_BYTES)
    if payload is None:
        raise FrameRefused("evidence was announced and did not come")
    return payload


def _read(stream: BinaryIO, wanted: bytes, most: int) -> bytes | None:
    header = stream.read(HEADER.size)
    if not header:
        return None
    if len(header) < HEADER.size:
        raise FrameRefused("the output ended inside a frame")
    kind, length = HEADER.unpack(header)
    if kind != wanted:
        raise FrameRefused("a frame is of another kind than it may be here")
    if length > most:
        raise FrameRefused(f"a frame of {length} bytes; the limit is {most}")
    payload = stream.read(length)
    if len(payload) < length:
        raise FrameRefused("the output ended inside a frame")
    return payload
