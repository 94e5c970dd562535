"""Guest images: built by their recipe when they are missing or when the recipe or the agent has changed."""

import os
import subprocess
from pathlib import Path

from deploy.local import processes
from deploy.local.state import DeployError, State, write_private

DEFAULT_IMAGE = "linux"
BUILD_TIMEOUT_S = 1800.0
LOG = "image"


def ensure(state: State, name: str = DEFAULT_IMAGE) -> bool:
    """The image is built from the installed source. Returns whether anything had to be done. Raises DeployError."""
    wanted = (state.app / "digest").read_text(encoding="utf-8")
    if is_built(state, name) and _stamp(state, name) == wanted:
        return False
    _build(state, name)
    write_private(_stamp_file(state, name), wanted, mode=0o644)
    return True


def is_built(state: State, name: str = DEFAULT_IMAGE) -> bool:
    """Whether a machine could be made of the image."""
    return (state.images / name / "manifest.json").exists()


def _build(state: State, name: str) -> None:
    argv = [
        str(state.python),
        "-m",
        "guest.images.build",
        name,
        f"--out={state.images / name}",
        f"--lock={state.app / 'requirements.lock'}",
        f"--uv={state.root / 'bootstrap' / 'bin' / 'uv'}",
    ]
    log = processes.open_log(state, LOG)
    try:
        subprocess.run(
            argv,
            cwd=state.app,
            env={**os.environ, "PYTHONPATH": str(state.app), "MALBOX_STATE": str(state.root)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
            timeout=BUILD_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        tail = processes.log_tail(state, LOG)
        raise DeployError(f"the guest image {name} could not be built ({error}); its log says:\n{tail}") from error
    finally:
        os.close(log)


def _stamp_file(state: State, name: str) -> Path:
    return state.images / f"{name}.source"


def _stamp(state: State, name: str) -> str:
    try:
        return _stamp_file(state, name).read_text(encoding="utf-8")
    except OSError:
        return ""
