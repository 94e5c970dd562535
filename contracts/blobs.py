"""References to bytes that are too large for a message."""

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import Sha256


class BlobRef(BaseModel):
    """Names bytes in the content-addressed store: what they hash to, and how many there are."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: Sha256
    size_bytes: int = Field(ge=0)
