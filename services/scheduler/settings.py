"""Settings of the scheduler."""

from pydantic import Field

from services.chassis.settings import ServiceSettings

RUNNING_PER_OWNER_MAX = 1000


class SchedulerSettings(ServiceSettings):
    """The chassis's settings and what the scheduler grants to whom."""

    running_per_owner_max: int = Field(
        default=RUNNING_PER_OWNER_MAX, ge=1, le=100_000, description="machines that one owner's tasks may hold at once"
    )
