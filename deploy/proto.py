"""Generates the Python of the guest's protocol beside its source: `python -m deploy.proto`, whenever that changes.

The generated files are committed: a guest image and an installation need no compiler.
"""

import os
import subprocess
import sys
from pathlib import Path

SOURCE = "contracts/guest/agent.proto"
TIMEOUT_S = 120
ROOT = Path(__file__).parent.parent


def main() -> int:
    """The files beside the source are what the source says; the compiler's exit code is returned."""
    outputs = (
        "--python_out=.",
        "--grpc_python_out=.",
        "--mypy_out=.",
        "--mypy_grpc_out=generate_concrete_servicer_stubs:.",
    )
    argv = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=.", *outputs, SOURCE]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where the compiler finds its plugins
    environment = {**os.environ, "PATH": path}
    return subprocess.run(argv, cwd=ROOT, env=environment, check=False, timeout=TIMEOUT_S).returncode


if __name__ == "__main__":
    sys.exit(main())
