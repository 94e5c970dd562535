"""Control groups in which the plugins service makes one for each of its sandboxes: made by root, given to its user.

In a tree of the second kind (cgroups(7)) a process may be moved only between groups below one that its mover may write,
and a group with processes has no limited children: the service itself is started in a group beside its sandboxes'.
Where none can be made the service limits sandboxes without, and says so.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from deploy.local import guest_group
from deploy.local.guest_group import Group
from deploy.local.state import State, ids_of, write_private

SERVICE = "service"
SANDBOXES = "sandbox-*"  # the service's own names
DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def prepare(state: State, proc: Path = Path("/proc/self")) -> list[Path]:
    """The directories are there, the service's user's own, and remembered. Whatever the kernel refuses is left out."""
    name = f"{guest_group.name_of(state)}-plugins"
    trees = set(guest_group.hierarchies(proc).values())
    kept = [place for place in places(state) if place.is_dir()]
    made = kept or [
        place for tree in sorted(trees, key=str) for place in _made(tree.parent / name, tree.version, state)
    ]
    said = {"boot_id": guest_group.boot_id(), "places": [str(place) for place in made]}
    write_private(_file(state), json.dumps(said), mode=0o644)
    return made


def places(state: State) -> list[Path]:
    """The directories as they were made since the host was started."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        said = json.loads(_file(state).read_text(encoding="utf-8"))
        if said["boot_id"] == guest_group.boot_id():
            return [Path(place) for place in said["places"]]
    return []


def joined(state: State, user: str, argv: Sequence[str]) -> list[str] | None:
    """The service's command, started in its own group; None where it may be started anywhere."""
    own = [place / SERVICE for place in places(state) if (place / SERVICE).is_dir()]
    return (
        guest_group.joined(Group(places={str(n): str(place) for n, place in enumerate(own)}), user, argv)
        if own
        else None
    )


def remove(state: State) -> bool:
    """Nothing of them is left; False where something in one does not end."""
    is_gone = guest_group.gone(places(state), lambda place: (*place.glob(SANDBOXES), place / SERVICE))
    if is_gone:
        _file(state).unlink(missing_ok=True)
    return is_gone


def _made(place: Path, version: int, state: State) -> list[Path]:
    """The directory and what the second kind needs in it; nothing where the kernel refuses."""
    user = state.users.of_service("plugins")
    try:
        place.mkdir(exist_ok=True)
        if version != 1:
            controllers = " ".join(f"+{name}" for name in guest_group.CONTROLLERS)
            (place / "cgroup.subtree_control").write_text(controllers, encoding="ascii")
            (place / SERVICE).mkdir(exist_ok=True)
        if os.geteuid() == 0:
            uid, gid = ids_of(user)
            given = [place, *(place / name for name in DELEGATED)] if version != 1 else [place]
            for path in given:
                os.chown(path, uid, gid)
    except OSError:
        with contextlib.suppress(OSError):
            (place / SERVICE).rmdir()
        with contextlib.suppress(OSError):
            place.rmdir()
        return []
    return [place]


def _file(state: State) -> Path:
    return state.run / "plugins.group"
