"""Settings of the scheduler."""

from pydantic import Field

from contracts.planning import Budgets
from services.chassis.settings import ServiceSettings

RUNNING_PER_OWNER_MAX = 1000
DAY_S = 86_400


class SchedulerSettings(ServiceSettings):
    """The chassis's settings, what the scheduler grants to whom, and how long each phase of a task may take."""

    running_per_owner_max: int = Field(
        default=RUNNING_PER_OWNER_MAX, ge=1, le=100_000, description="machines that one owner's tasks may hold at once"
    )
    queue_budget_s: int = Field(default=DAY_S, ge=1, le=365 * DAY_S, description="longest wait for a machine")
    boot_budget_s: int = Field(default=300, ge=5, le=1_800, description="from asking for a machine to a running sample")
    grace_budget_s: int = Field(default=120, ge=0, le=600, description="how far a keep-alive extends the timeout")
    collection_budget_s: int = Field(default=240, ge=5, le=280, description="collecting the evidence, per attempt")
    host_plugins_budget_s: int = Field(default=1_800, ge=5, le=DAY_S, description="each stage on the host, once begun")
    cleanup_budget_s: int = Field(default=600, ge=5, le=DAY_S, description="after which slow cleaning is pointed out")

    @property
    def budgets(self) -> Budgets:
        """As they are frozen with a task's plan."""
        return Budgets(
            queue_s=self.queue_budget_s,
            boot_s=self.boot_budget_s,
            grace_s=self.grace_budget_s,
            collection_s=self.collection_budget_s,
            host_plugins_s=self.host_plugins_budget_s,
            cleanup_s=self.cleanup_budget_s,
        )
