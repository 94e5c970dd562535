"""The five services as processes: started as their users from the copied source, and known by what they run."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from deploy.local import plugin_group, processes
from deploy.local.ports import LOOPBACK
from deploy.local.routes import API
from deploy.local.state import State, write_private

HEALTH_TIMEOUT_S = 5.0
HEALTH_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class ServiceProcess:
    """One service of an installation."""

    state: State
    name: str
    port: int

    def start(self, environment: Mapping[str, str] | None = None) -> processes.Identity:
        """The service's process runs; whether it is ready is what its health says.

        One that is started by this has the given environment, too.
        """
        with processes.only_starter(self.state, self.name):
            running = processes.started(self.state, self.name)
            if running is not None:
                return running
            write_private(self._version_file, self.version(), mode=0o644)
            command = self._command()
            return processes.spawn(self.state, replace(command, env={**command.env, **(environment or {})}))

    def stop(self) -> bool:
        """The process has ended. Returns whether there was one."""
        return processes.stop(self.state, self.name)

    def is_current(self) -> bool:
        """Whether what runs has the installed source and the present settings."""
        try:
            return self._version_file.read_text(encoding="utf-8") == self.version()
        except OSError:
            return False

    def version(self) -> str:
        """A digest of the source and of the settings that the service would start with now."""
        digest = hashlib.sha256()
        for path in (self.state.app / "digest", self.state.settings_file(self.name), self.state.etc / "fleet.toml"):
            if path.name != "fleet.toml" or self.name == "machines":
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def health(self) -> dict[str, Any] | None:
        """What the service says of itself, or None when it does not answer."""
        return fetch_health(self.port, self.name)

    @property
    def _version_file(self) -> Path:
        return self.state.run / f"{self.name}.version"

    def _command(self) -> processes.Command:
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self.state.scratch / self.name),
            "TMPDIR": str(self.state.scratch / self.name),
            "MALBOX_CONFIG": str(self.state.settings_file(self.name)),
            "PYTHONPATH": str(self.state.app),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        argv = [str(self.state.python), "-m", f"services.{self.name}"]
        user = self.state.users.of_service(self.name)
        joined = plugin_group.joined(self.state, user, argv) if self.name == "plugins" else None
        if joined is not None:
            return processes.Command(self.name, joined, "root" if os.geteuid() == 0 else user, env, self.state.app)
        return processes.Command(self.name, argv, user, env, self.state.app)


def fetch_health(port: int, service: str) -> dict[str, Any] | None:
    """The health of a service at a port: its own, or the gateway's. None when there is no answer."""
    connection = HTTPConnection(LOOPBACK, port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", f"{API}/health/{service}")
        said = json.loads(connection.getresponse().read(HEALTH_MAX_BYTES))
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return said if isinstance(said, dict) and "is_ready" in said else None
