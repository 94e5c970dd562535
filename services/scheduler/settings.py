"""Settings of the scheduler."""

from services.chassis.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """The scheduler needs no more than every service."""
