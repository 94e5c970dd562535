"""`python -m services.scheduler`."""

from services.chassis.run import run
from services.chassis.settings import load_settings
from services.scheduler.announcements import announce
from services.scheduler.main import MIGRATIONS, compose
from services.scheduler.settings import SchedulerSettings

run("scheduler", load_settings(SchedulerSettings), compose, migrations=MIGRATIONS, announce=announce)
