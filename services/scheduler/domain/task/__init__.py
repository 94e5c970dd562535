"""The task: its events, what they add up to, and the aggregate that decides what comes next."""

from services.scheduler.domain.task.aggregate import Task
from services.scheduler.domain.task.record import NotPossible

__all__ = ["NotPossible", "Task"]
