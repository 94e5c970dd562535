"""Everything secret of an installation: made once, kept in files that one user may read."""

import hashlib
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.state import SERVICES, DeployError, State, write_private

SECRET_BYTES = 24
DATABASE_SUPERUSER = "postgres"
INTEGRATOR = "integrator"
BROKER_ADMIN = "operator"


@dataclass(frozen=True)
class Secrets:
    """Passwords by user, the gateway's secret, and the administrator's token."""

    database: dict[str, str]
    broker: dict[str, str]
    gateway: str
    admin_token: str
    erlang_cookie: str

    @property
    def admin_token_sha256(self) -> str:
        """What intake keeps of the token."""
        return hashlib.sha256(self.admin_token.encode()).hexdigest()

    def text(self) -> str:
        """The file that keeps them, but for the administrator's token, which has a file of its own."""
        lines = [f'gateway = "{self.gateway}"', f'erlang_cookie = "{self.erlang_cookie}"']
        for title, table in (("database", self.database), ("broker", self.broker)):
            lines += ["", f"[{title}]", *(f'{name} = "{value}"' for name, value in table.items())]
        return "\n".join(lines) + "\n"


def secrets_file(state: State) -> Path:
    """Where the secrets are kept."""
    return state.etc / "secrets.toml"


def ensure(state: State) -> Secrets:
    """The installation's secrets; missing ones are made and kept. Raises DeployError when the file is damaged."""
    kept = _read(secrets_file(state))
    database = kept.get("database", {})
    broker = kept.get("broker", {})
    held = Secrets(
        database={name: database.get(name) or fresh() for name in (DATABASE_SUPERUSER, *SERVICES)},
        broker={name: broker.get(name) or fresh() for name in (*SERVICES, BROKER_ADMIN, INTEGRATOR)},
        gateway=kept.get("gateway") or fresh(),
        admin_token=_admin_token(state),
        erlang_cookie=kept.get("erlang_cookie") or fresh(),
    )
    write_private(secrets_file(state), held.text())
    return held


def fresh() -> str:
    """A secret nobody can guess, made of characters that need no quoting anywhere."""
    return secrets.token_hex(SECRET_BYTES)


def _admin_token(state: State) -> str:
    try:
        kept = state.admin_token.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        kept = ""
    token = kept or f"mbx_{fresh()}"
    write_private(state.admin_token, token + "\n")
    return token


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DeployError(f"{path}: {error}; restore it, or remove the state directory and start anew") from error
