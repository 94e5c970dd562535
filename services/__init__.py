"""The five services, and the chassis that they stand on."""

import os

# gRPC reads this when it is imported. Its handlers around fork() run in the child that is about to become a sandboxed
# plugin (uvloop forks where asyncio's own loop would vfork), and sometimes end it before it has begun.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
