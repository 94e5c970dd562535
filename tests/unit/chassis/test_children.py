"""A service's children are started without gRPC's help."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HANDLERS = "fork() handlers"
CHILDREN = """
import asyncio
import services
import grpc, uvloop

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        for _ in range(10):
            await (await asyncio.create_subprocess_exec("/bin/true")).wait()
    await server.stop(0)

uvloop.run(main())
"""


@pytest.mark.promise("P37")
@pytest.mark.parametrize(("given", "are_seen"), [({}, False), ({"GRPC_ENABLE_FORK_SUPPORT": "1"}, True)])
def test_grpc_runs_nothing_between_fork_and_exec(given: dict[str, str], *, are_seen: bool) -> None:
    """There it has ended children before they began. Asked to, it would: the control."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN],
        cwd=ROOT,
        env={**environment, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (HANDLERS in done.stderr) is are_seen
