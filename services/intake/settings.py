"""What intake is told. Unknown keys are refused."""

from pydantic import Field

from contracts.ids import Sha256
from contracts.limits import CHILD_DEPTH_MAX, CHILDREN_FOUND_MAX, SAMPLE_MAX_BYTES, TASKS_PER_SUBMISSION_MAX
from services.chassis.settings import ServiceSettings


class IntakeSettings(ServiceSettings):
    """The chassis's settings and intake's own."""

    admin_token_sha256: Sha256 = Field(description="hex SHA-256 of the administrator's token; the token is nowhere")
    sample_max_bytes: int = Field(default=SAMPLE_MAX_BYTES, ge=1, le=2**40)
    uploads_max: int = Field(default=16, ge=1, le=1000, description="uploads received at once; more are told to wait")
    queued_per_owner_max: int = Field(
        default=100_000, ge=1, le=10_000_000, description="tasks of one owner that wait; more are told to come later"
    )
    child_depth_max: int = Field(
        default=3, ge=0, le=CHILD_DEPTH_MAX, description="how far inside files become samples of their own; 0: none do"
    )
    children_per_task_max: int = Field(default=16, ge=1, le=CHILDREN_FOUND_MAX)
    tasks_per_submission_max: int = Field(
        default=64, ge=1, le=TASKS_PER_SUBMISSION_MAX, description="with those that were asked for"
    )
    children_bytes_max: int = Field(default=256 * 2**20, ge=1, le=2**40, description="of all children of a submission")
    upload_idle_timeout_s: float = Field(default=60, gt=0, description="longest silence within an upload")
    default_profile: str = Field(default="linux", description="when a submission names neither profile nor machine")
