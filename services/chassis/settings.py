"""Settings that every service has. They come from one TOML file; an unknown key is refused."""

import os
import tomllib
from pathlib import Path
from typing import Any, TypeVar

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
        return model.model_validate(toml_table(Path(name)))
    except ValidationError as error:
        raise SettingsRefused(f"{name}: {told(error)}") from error


def toml_table(path: Path) -> dict[str, Any]:
    """What the file says, not yet compared with any model. Raises SettingsRefused, naming the file, line and remedy."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsRefused(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsRefused(
            f"{path}: line {line}: the byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:  # also of numbers too long and tables too deep to be read
        raise SettingsRefused(f"{path}: not TOML: {error}") from error


def told(error: ValidationError) -> str:
    """What is wrong with which key, in one line."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
