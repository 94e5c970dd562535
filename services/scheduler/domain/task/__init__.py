"""The task: its events, and the aggregate that decides what comes next."""

from services.scheduler.domain.task.aggregate import NotPossible, Task

__all__ = ["NotPossible", "Task"]
