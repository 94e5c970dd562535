"""The agent's settings: environment (`MALBOX_<NAME>`) over file (TOML) over default; the effective ones are reported.

The file is `MALBOX_AGENT_SETTINGS_FILE`, by default /etc/malbox/agent.toml, and may be absent. An unknown key in it is
an error, as is a variable `MALBOX_…` that nothing reads, and a value of another type.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

SETTINGS_FILE = "/etc/malbox/agent.toml"
SETTINGS_FILE_VARIABLE = "MALBOX_AGENT_SETTINGS_FILE"
SETTINGS_MAX_BYTES = 64 * 1024
_PREFIX = "MALBOX_"
_BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class SettingsRefused(ValueError):
    """A setting cannot be used; the message names it and where it came from."""


@dataclass(frozen=True)
class AgentSettings:
    """What an operator or an image may choose. Directories are absolute; `work_dir` is the agent's alone.

    In `plugin_dir`, which is made, every guest plugin has a directory of its own. Each is a user of its own, too, from
    `first_plugin_uid` on: nobody else has a number that systemd hands out for a while (systemd.exec(5), DynamicUser).

    `firmware_variables_dir` is where UEFI's variables are mounted, empty where the agent is to leave them alone: an
    agent that is tried on somebody's own machine must not write into its firmware.
    """

    agent_host: str = "0.0.0.0"  # noqa: S104 - the guest has one card to its host, and mutual TLS stands before all
    agent_port: int = 7411
    work_dir: str = "/var/lib/malbox-agent"
    plugin_dir: str = "/var/lib/malbox-plugins"
    first_plugin_uid: int = 61184
    sample_dir: str = "/home/sample"
    sample_user: str = "sample"
    watched_dirs: str = "/home/sample:/tmp:/var/tmp:/dev/shm:/run/lock"
    enrolment_file: str = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.malbox/enrolment/raw"
    enrolment_wait_s: int = 300
    may_set_clock: bool = True
    firmware_variables_dir: str = ""

    def as_strings(self) -> dict[str, str]:
        """Every effective setting by name. None of them is a secret."""
        return {field.name: str(getattr(self, field.name)) for field in fields(self)}


def load_settings(environment: Mapping[str, str] | None = None) -> AgentSettings:
    """The effective settings. Raises SettingsRefused."""
    environment = os.environ if environment is None else environment
    chosen: dict[str, object] = {}
    path = Path(environment.get(SETTINGS_FILE_VARIABLE, SETTINGS_FILE))
    for name, value in _file_values(path).items():
        chosen[name] = _typed(name, value, str(path))
    for variable in sorted(environment):
        if variable.startswith(_PREFIX) and variable != SETTINGS_FILE_VARIABLE:
            name = variable.removeprefix(_PREFIX).lower()
            chosen[name] = _typed(name, environment[variable], variable)
    return _checked(AgentSettings(**chosen))  # type: ignore[arg-type]  # each value was converted to its field's type


def _file_values(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return tomllib.loads(file.read(SETTINGS_MAX_BYTES).decode())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsRefused(f"{path}: {error}") from error


def _typed(name: str, value: object, source: str) -> object:
    types: dict[str, object] = {field.name: field.type for field in fields(AgentSettings)}
    wanted = types.get(name)
    if wanted is None:
        raise SettingsRefused(f"{source}: unknown key {name!r}; known: {', '.join(sorted(types))}")
    if isinstance(value, wanted if isinstance(wanted, type) else object):
        return value
    if wanted is int and isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    if wanted is bool and isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise SettingsRefused(f"{source}: {name} cannot be {value!r}")


def _checked(settings: AgentSettings) -> AgentSettings:
    if not 0 < settings.agent_port < 65536:  # noqa: PLR2004 - ports have 16 bits
        raise SettingsRefused(f"agent_port: {settings.agent_port} is not a port")
    if not 0 <= settings.enrolment_wait_s <= 86400:  # noqa: PLR2004 - a day
        raise SettingsRefused(f"enrolment_wait_s: {settings.enrolment_wait_s} is more than a day")
    if not 0 < settings.first_plugin_uid < 65000:  # noqa: PLR2004 - below nobody
        raise SettingsRefused(f"first_plugin_uid: {settings.first_plugin_uid} is no user for plugins")
    for name in ("work_dir", "plugin_dir", "sample_dir", "enrolment_file"):
        if not Path(str(getattr(settings, name))).is_absolute():
            raise SettingsRefused(f"{name}: not an absolute path")
    return settings
