"""The system users that run things when Malbox is started by root. Standard library only: the bootstrap runs this."""

import grp
import os
import pwd
import subprocess

from deploy.local.state import MACHINE_USER, NETWORK_USER, SERVICE_USER, DeployError

HOME = "/nonexistent"
SHELL = "/usr/sbin/nologin"
USERADD_TIMEOUT_S = 60.0
MACHINE_GROUPS = ("kvm",)


def ensure() -> list[str]:
    """The users exist, without password, shell or home. Returns those that were made. Raises DeployError."""
    if os.geteuid() != 0:
        return []
    return [name for name in (SERVICE_USER, MACHINE_USER, NETWORK_USER) if not exists(name) and make(name)]


def exists(name: str) -> bool:
    """Whether the system knows the user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def make(name: str) -> bool:
    """The user exists now. Raises DeployError."""
    groups = [group for group in MACHINE_GROUPS if name == MACHINE_USER and _has_group(group)]
    argv = ["/usr/sbin/useradd", "--system", "--user-group", "--no-create-home", "--home-dir", HOME, "--shell", SHELL]
    if groups:
        argv += ["--groups", ",".join(groups)]
    try:
        subprocess.run([*argv, name], check=True, capture_output=True, timeout=USERADD_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        if exists(name):  # somebody else made it in the same moment
            return False
        raise DeployError(f"the system user {name} could not be made: {error.stderr.decode().strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeployError(f"the system user {name} could not be made: {error}") from error
    return True


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


if __name__ == "__main__":
    for made in ensure():
        print(f"made the system user {made}")
