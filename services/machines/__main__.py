"""`python -m services.machines`."""

from services.chassis.run import run
from services.chassis.settings import load_settings
from services.machines.announcements import announce
from services.machines.main import MIGRATIONS, compose
from services.machines.settings import MachinesSettings

run("machines", load_settings(MachinesSettings), compose, migrations=MIGRATIONS, announce=announce)
