"""The wire between the host and a plugin's process. Standard library only: it travels into the sandbox.

A frame is one byte of kind, four bytes of length (big-endian) and the payload. `J` is a JSON object that says what
it is under "frame"; `B` is a piece of the result that the last `J` announced. The host checks before it believes.

On the control socket, which only the sandbox's own first process holds:

    host -> sandbox  J {"frame": "start", "plugin_dir", "entry", "readable", "executable", "writable", "emptied"}
    sandbox -> host  J {"frame": "ready", "landlock"} or J {"frame": "refused", "reason"}
    host -> sandbox  J {"frame": "run", ...} with the writing ends of two pipes: output and log
    sandbox -> host  J {"frame": "idle", "status"}       the run and everything that it started have ended
    host -> sandbox  J {"frame": "ping"}
    sandbox -> host  J {"frame": "pong"}

On the output pipe of one run:

    plugin -> host   J {"frame": "log", "event", "keys"}
                     J {"frame": "result", "name", "kind", "media_type", "size_bytes"}, B, B, ...
                     J {"frame": "outcome", "outcome": completed | failed | skipped | crashed, "reason"}
"""

import json
import struct
from typing import Any

HEADER = struct.Struct(">cI")
FRAME_MAX_BYTES = 1024 * 1024
CHUNK_BYTES = 256 * 1024
JSON_KIND = b"J"
BYTES_KIND = b"B"


class FrameRefused(ValueError):
    """What came is not a frame of this protocol."""


def encode(kind: bytes, payload: bytes) -> bytes:
    """The frame's bytes. Raises FrameRefused over the limit."""
    if len(payload) > FRAME_MAX_BYTES:
        raise FrameRefused(f"frame of {len(payload)} bytes; the limit is {FRAME_MAX_BYTES}")
    return HEADER.pack(kind, len(payload)) + payload


def encode_json(value: dict[str, Any]) -> bytes:
    """The frame of a JSON object."""
    return encode(JSON_KIND, json.dumps(value, separators=(",", ":")).encode())


def decode_header(header: bytes) -> tuple[bytes, int]:
    """Kind and length of the payload that follows. Raises FrameRefused."""
    kind, length = HEADER.unpack(header)
    if kind not in (JSON_KIND, BYTES_KIND):
        raise FrameRefused("unknown kind of frame")
    if length > FRAME_MAX_BYTES:
        raise FrameRefused(f"frame of {length} bytes; the limit is {FRAME_MAX_BYTES}")
    return kind, length


def decode_json(payload: bytes) -> dict[str, Any]:
    """The JSON object in a payload. Raises FrameRefused."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise FrameRefused("a frame is not JSON") from error
    if not isinstance(value, dict) or not isinstance(value.get("frame"), str):
        raise FrameRefused("a frame does not say what it is")
    return value
