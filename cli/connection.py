"""Where Malbox is and what proves who asks: from the environment, else from the state directory of an installation."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cli.errors import Unreachable, Usage

URL_VARIABLE, TOKEN_VARIABLE, STATE_VARIABLE = "MALBOX_URL", "MALBOX_TOKEN", "MALBOX_STATE"
STATE_DEFAULT = ".malbox"
NOT_RUNNING = "Start Malbox with `malbox up`, or set MALBOX_URL and MALBOX_TOKEN to one that runs elsewhere."


@dataclass(frozen=True)
class Connection:
    """The origin of the API and the token for it."""

    url: str
    token: str = field(repr=False)

    @property
    def is_local(self) -> bool:
        """Whether it is this machine: then no proxy is asked."""
        return urlsplit(self.url).hostname in {"127.0.0.1", "::1", "localhost"}


def state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The state directory: MALBOX_STATE, else `.malbox` here."""
    return Path(environment.get(STATE_VARIABLE) or STATE_DEFAULT)


def resolve(environment: Mapping[str, str] = os.environ) -> Connection:
    """The connection to use. Raises Unreachable when there is none, Usage when what is given cannot be used."""
    state = state_directory(environment)
    url = environment.get(URL_VARIABLE) or _endpoint(state)
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise Usage(f"{url!r} is not a URL of Malbox.", remedy=f"Set {URL_VARIABLE} to one like http://127.0.0.1:8080")
    token = environment.get(TOKEN_VARIABLE) or _token(state)
    if not token.isascii() or not token.isprintable():
        raise Usage("The token holds characters that no token has.", remedy=f"Check {TOKEN_VARIABLE}.")
    return Connection(url.rstrip("/"), token)


def _endpoint(state: Path) -> str:
    path = state / "etc" / "endpoint.toml"
    try:
        url = tomllib.loads(path.read_text(encoding="utf-8")).get("url")
    except FileNotFoundError as error:
        raise Unreachable(f"There is no running Malbox in {state}.", remedy=NOT_RUNNING) from error
    except OSError as error:
        raise Unreachable(f"{path} cannot be read: {error.strerror}.", remedy=NOT_RUNNING) from error
    except ValueError as error:
        raise Unreachable(f"{path} is damaged: {error}.", remedy="Write it again with `malbox up`.") from error
    if not isinstance(url, str):
        raise Unreachable(f"{path} names no url.", remedy="Write it again with `malbox up`.")
    return url


def _token(state: Path) -> str:
    path = state / "admin-token"
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise Unreachable(
            f"The token in {path} cannot be read: {reason}.",
            remedy=f"Run as the user who ran `malbox up`, or set {TOKEN_VARIABLE}.",
        ) from error
