"""Puts the bytes behind a descriptor into the object store, as the store's own user, and says under which hash.

python -m services.machines.network.deposit DESCRIPTOR DIRECTORY
"""

import asyncio
import sys
from pathlib import Path

from services.chassis.blobs import BlobStore


def main() -> None:
    """One blob is stored; its reference is on standard output."""
    descriptor, directory = sys.argv[1:]
    stored = asyncio.run(BlobStore(Path(directory)).put_file(Path(f"/proc/self/fd/{descriptor}")))
    sys.stdout.write(stored.model_dump_json())


if __name__ == "__main__":
    main()
