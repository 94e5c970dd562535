"""What the machines service may ask of the network helper, and what it answers. Each is one JSON object in one packet.

Nothing in a request is a path, a name of an interface, an address or a rule: the helper derives all of those itself.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from contracts.blobs import BlobRef
from contracts.ids import LeaseId, MachineId
from contracts.submission import Route

PACKET_MAX_BYTES = 64 * 1024
FENCES_MAX = 400
"""So many in one answer: names are short enough for that to be one packet."""


_Number = Annotated[int, Field(ge=0, lt=2**53)]


class NetworkFault(Exception):
    """the network could not be made as it must be"""


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _OfMachine(_Words):
    machine_id: MachineId
    epoch: int = Field(ge=0, lt=2**53)
    claim: tuple[_Number, _Number] | None = Field(
        default=None, description="of the epoch's work, under which this is asked; None: by who only watches"
    )


class Plug(_OfMachine):
    """A fresh namespace with a cable that leads nowhere; whatever the machine had before is gone."""

    verb: Literal["plug"] = "plug"


class Open(_OfMachine):
    """The plugged machine is on that route; on any but none, what it sends and gets is recorded."""

    verb: Literal["open"] = "open"
    lease_id: LeaseId
    route: Route


class Verify(_OfMachine):
    """What the kernel has is exactly what the machine's route says."""

    verb: Literal["verify"] = "verify"


class Seal(_OfMachine):
    """The record of the machine's packets has ended and is in the object store."""

    verb: Literal["seal"] = "seal"


class Close(_OfMachine):
    """Nothing of the machine's network is left."""

    verb: Literal["close"] = "close"


class Inventory(_Words):
    """Which networks there are."""

    verb: Literal["inventory"] = "inventory"


class Fences(_Words):
    """How high the fences stand, of machines whose names come after `after`; a bounded number in one answer."""

    verb: Literal["fences"] = "fences"
    after: MachineId | None = None


class Watch(_Words):
    """From now on an answer comes for each machine whose network is no longer what its route says."""

    verb: Literal["watch"] = "watch"


Request = Annotated[Plug | Open | Verify | Seal | Close | Inventory | Fences | Watch, Field(discriminator="verb")]
REQUEST: TypeAdapter[Request] = TypeAdapter(Request)

Problem = Literal["stale", "overtaken", "unknown", "refused", "failed", "breached"]
"""stale: acted for a later epoch; overtaken: under a later claim of this one; unknown: no such network; refused: never
possible here; failed: try again; breached: what the kernel has is not what it should have."""


class Capture(_Words):
    """A record of packets, in libpcap's format."""

    blob: BlobRef
    lease_id: LeaseId
    packets: int = Field(ge=0)
    is_truncated: bool


class Standing(_Words):
    """One machine's network."""

    machine_id: MachineId
    epoch: int
    route: Route


class Answer(_Words):
    """The outcome of one request. `problem` is None when what was asked for is true."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    problem: Problem | None = None
    reason: str = ""
    socket: str | None = Field(default=None, description="plug: where the machine's analysis card connects to")
    rules_sha256: str | None = Field(default=None, description="open, verify: of what the kernel was seen to have")
    passed: int | None = Field(default=None, description="verify: frames of the guest that were let through")
    dropped: int | None = Field(default=None, description="verify: frames of the guest that were not")
    capture: Capture | None = None
    networks: tuple[Standing, ...] = ()
    routes: tuple[Route, ...] = Field(default=(), description="inventory: what this host can open")
    fences: dict[MachineId, int] = Field(default={}, description="fences: the highest epoch acted for, by machine")
    machine_id: MachineId | None = Field(default=None, description="watch: whose network it is about")
    epoch: int | None = Field(default=None, description="watch: of that network")
    lease_id: LeaseId | None = Field(default=None, description="watch: that the network is open for")
