"""Settings that every service has. They come from one TOML file; an unknown key is refused."""

import os
import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.chassis.errors import PermanentError

CONFIG_VARIABLE = "MALBOX_CONFIG"


class SettingsRefused(PermanentError):
    """the settings file cannot be used"""


class ServiceSettings(BaseModel):
    """What it takes to be a service on this host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="local", description="name of this host, part of command routing")
    amqp_url: str
    database_url: str
    blob_dir: Path
    scratch_dir: Path
    http_host: str = "127.0.0.1"
    http_port: int = Field(ge=0, le=65535, description="0: any free port")
    gateway_secret: str = Field(min_length=16, description="what the gateway proves itself with")
    prefetch: int = Field(default=16, ge=1, le=1000, description="messages handled at once")


S = TypeVar("S", bound=ServiceSettings)


def load_settings(model: type[S], path: str | None = None) -> S:
    """The settings in the file that `path` or MALBOX_CONFIG names. Raises SettingsRefused, naming file and key."""
    name = path or os.environ.get(CONFIG_VARIABLE)
    if not name:
        raise SettingsRefused(f"no settings file: set {CONFIG_VARIABLE} to the service's TOML file")
    try:
        return model.model_validate(tomllib.loads(Path(name).read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsRefused(f"{name}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsRefused(f"{name}: not TOML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise SettingsRefused(f"{name}: {faults}") from error
