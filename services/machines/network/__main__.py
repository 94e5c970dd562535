"""The network helper's process, the one part of Malbox that runs as root.

python -m services.machines.network        MALBOX_CONFIG names its settings
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import structlog

from services.machines.network.children import Account
from services.machines.network.doubts import Doubts
from services.machines.network.networks import Networks
from services.machines.network.server import Server
from services.machines.network.settings import HelperSettings, load_settings
from services.machines.network.words import NetworkFault

log = structlog.get_logger()


async def serve(settings: HelperSettings) -> None:
    """Answers until the process is asked to end; then every network is gone. Raises NetworkFault."""
    settings.directory.mkdir(parents=True, exist_ok=True)
    settings.directory.chmod(0o711)
    doubts = Doubts()
    networks = Networks(settings, Path(sys.executable), on_change=doubts.about)
    await networks.start()
    server = Server(networks, settings.directory, Account.named(settings.machines_user), doubts, settings.guests_group)
    task = asyncio.create_task(server.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    log.info("network_helper_started", routes=networks.routes())
    try:
        with suppress(asyncio.CancelledError):
            await task
    finally:
        await networks.close_all()


def main() -> int:
    """The exit status."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
    )
    if os.geteuid() != 0:
        sys.stderr.write("the network helper makes network namespaces: it runs as root or not at all\n")
        return 1
    try:
        asyncio.run(serve(load_settings(Path(os.environ["MALBOX_CONFIG"]))))
    except NetworkFault as error:
        sys.stderr.write(f"network helper: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
