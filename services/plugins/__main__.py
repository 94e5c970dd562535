"""`python -m services.plugins`."""

from services.chassis.run import run
from services.chassis.settings import load_settings
from services.plugins.main import MIGRATIONS, compose
from services.plugins.settings import PluginsSettings

run("plugins", load_settings(PluginsSettings), compose, migrations=MIGRATIONS)
