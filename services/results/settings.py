"""Settings of the results service."""

from pydantic import Field

from services.chassis.settings import ServiceSettings


class ResultsSettings(ServiceSettings):
    """What the results service needs beyond what every service needs."""

    seal_patience_s: float = Field(
        default=240.0,
        gt=0,
        le=3600,
        description="how long sealing waits for a result that was announced, and is asked for again",
    )
