"""The connection to libvirt: blocking calls run on threads of their own, are bounded in time, and fail in our words."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import libvirt

from services.machines.errors import HypervisorRefused, HypervisorUnavailable

T = TypeVar("T")

# A call that outlives its timeout keeps its thread until libvirt answers: a few may hang before the rest queue up.
THREADS_MAX = 8
_LOST = frozenset(
    {
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_SYSTEM_ERROR,
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_OPERATION_TIMEOUT,
        libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    }
)


_events_guard = threading.Lock()
_events_run = False


def _run_events() -> None:
    """The loop that hears the daemon runs, one for the process; it has to before the first connection is opened."""
    global _events_run  # noqa: PLW0603 - libvirt keeps one loop for the process
    with _events_guard:
        if not _events_run:
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_turn_for_ever, name="libvirt-events", daemon=True).start()
            _events_run = True


def _turn_for_ever() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _keep_quiet(_context: object, _error: object) -> None:
    """Without a handler of ours, libvirt would print every error to stderr."""


class LibvirtLink:
    """One connection, opened when needed and again when lost."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._guard = threading.Lock()
        self._connection: Any = None
        self._pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="libvirt")
        self._change = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        _run_events()
        libvirt.registerErrorHandler(_keep_quiet, None)

    async def call(self, step: Callable[[Any], T], *, timeout_s: float) -> T:
        """What `step` returns, given the connection. It runs on a thread and may go on after the timeout.

        Raises HypervisorUnavailable, HypervisorRefused, and what `step` raises of our own.
        """
        return await self._bounded(lambda: self._attempt(step), timeout_s)

    async def aside(self, step: Callable[[], T], *, timeout_s: float) -> T:
        """What `step`, which needs no connection but blocks, returns."""
        return await self._bounded(step, timeout_s)

    async def changed(self) -> None:
        """The daemon told of a domain's life, or the connection ended, since this was last awaited."""
        self._loop = asyncio.get_running_loop()
        await self._change.wait()
        self._change.clear()

    async def close(self) -> None:
        """The connection is closed; calls under way fail."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._drop)

    async def _bounded(self, step: Callable[[], T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._pool, step)
        except TimeoutError as error:
            raise HypervisorUnavailable(f"the hypervisor did not answer within {timeout_s} s") from error

    def _attempt(self, step: Callable[[Any], T]) -> T:
        try:
            return step(self._opened())
        except libvirt.libvirtError as error:
            said = f"libvirt: {error.get_error_message()}"
            if error.get_error_code() in _LOST or error.get_error_domain() == libvirt.VIR_FROM_RPC:
                self._drop()
                raise HypervisorUnavailable(said) from error
            raise HypervisorRefused(said) from error

    def _opened(self) -> Any:
        with self._guard:
            if self._connection is not None and not self._answers():
                self._connection = None
            if self._connection is None:
                self._connection = libvirt.open(self._uri)
                self._connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._tell, None)
                self._connection.registerCloseCallback(self._tell, None)
                self._tell()
            return self._connection

    def _answers(self) -> bool:
        """A daemon that was started again leaves a connection that is open and dead: only a question tells."""
        try:
            self._connection.getLibVersion()
        except libvirt.libvirtError:
            return False
        return True

    def _tell(self, *_what: object) -> None:
        """Called on libvirt's thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._change.set)

    def _drop(self) -> None:
        with self._guard:
            connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.unregisterCloseCallback()
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()
