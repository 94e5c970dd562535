"""`python -m services.machines`."""

from functools import partial

from services.chassis.run import run
from services.chassis.settings import load_settings
from services.machines.adapters.own_process import close_to_own_user
from services.machines.announcements import announce
from services.machines.main import MIGRATIONS, compose, keep_deadlines
from services.machines.settings import MachinesSettings

settings = load_settings(MachinesSettings)
if settings.network_socket is not None:
    close_to_own_user()
run(
    "machines",
    settings,
    compose,
    migrations=MIGRATIONS,
    announce=announce,
    until_served=partial(keep_deadlines, settings),
)
