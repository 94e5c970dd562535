"""The helper's socket: one packet asks, one answers. Only the machines' user is heard, and only in `words`.

QEMU runs as that user too: whoever is in the control group of guests is not heard, for nobody gets out of it.
"""

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

import structlog
from pydantic import ValidationError

from services.machines.domain.fence import Claim
from services.machines.errors import StaleClaim, StaleEpoch
from services.machines.network.children import Account
from services.machines.network.doubts import Doubts
from services.machines.network.networks import Breached, Networks, NoSuchNetwork, Refused, Seen
from services.machines.network.words import (
    PACKET_MAX_BYTES,
    REQUEST,
    Answer,
    Close,
    Fences,
    Inventory,
    NetworkFault,
    Open,
    Plug,
    Problem,
    Request,
    Seal,
    Standing,
    Verify,
    Watch,
)

SOCKET = "helper"
CONNECTIONS_MAX = 64
_REASON_MAX_CHARS = 4000
_WATCHER_PATIENCE_S = 1.0
_LOOK_AGAIN_S = 1.0
_PEER = struct.Struct("3i")  # struct ucred (unix(7))
_SO_PEERPIDFD = 77  # asm-generic/socket.h

log = structlog.get_logger()


class Server:
    """Answers requests about one host's networks."""

    def __init__(
        self, networks: Networks, directory: Path, client: Account, doubts: Doubts, guests_group: str | None
    ) -> None:
        """`doubts` says whose namespace changed: whether for the worse is looked at here."""
        self._guests_group = guests_group
        self._networks = networks
        self._path = directory / SOCKET
        self._client = client
        self._watchers: set[socket.socket] = set()
        self._busy = asyncio.Semaphore(CONNECTIONS_MAX)
        self._doubts = doubts

    async def run(self) -> None:
        """Answers until cancelled."""
        with self._bound() as listening:
            try:
                await self._serve(listening)
            finally:
                self._path.unlink(missing_ok=True)

    async def _serve(self, listening: socket.socket) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            loop = asyncio.get_running_loop()
            while True:
                await self._busy.acquire()
                client, _ = await loop.sock_accept(listening)
                group.create_task(self._converse(client))

    def _bound(self) -> socket.socket:
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listening.settimeout(0)
        listening.bind(str(self._path))
        self._path.chmod(0o666)  # who may ask is checked by name, below: the kernel vouches for it
        listening.listen(CONNECTIONS_MAX)
        return listening

    async def _converse(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            client.settimeout(0)
            if not self._may_ask(client):
                log.warning("stranger_was_turned_away")
                return
            while packet := await loop.sock_recv(client, PACKET_MAX_BYTES):
                await loop.sock_sendall(client, await self._reply(packet, client))
        except OSError:
            return  # it hung up
        finally:
            self._watchers.discard(client)
            client.close()
            self._busy.release()

    def _may_ask(self, client: socket.socket) -> bool:
        pid, uid, _ = _PEER.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return bool(uid == self._client.uid) and not (self._guests_group and _is_of(client, pid, self._guests_group))

    async def _reply(self, packet: bytes, client: socket.socket) -> bytes:
        try:
            request = REQUEST.validate_json(packet)
        except ValidationError as error:
            return _packed(Answer(problem="refused", reason=f"not a request: {error.errors()[0]['msg']}"))
        if isinstance(request, Watch):
            self._watchers.add(client)
            return _packed(Answer())
        answer = await self.answer(request)
        if answer.problem:
            log.warning("request_was_not_met", verb=request.verb, problem=answer.problem, reason=answer.reason)
        return _packed(answer)

    async def answer(self, request: Request) -> Answer:
        """What was asked for is true, or the answer says why not."""
        about = None if isinstance(request, (Inventory, Fences, Watch)) else request.machine_id
        return await self._outcome(self._act(request), request.verb, about)

    async def _outcome(self, doing: Awaitable[Answer], verb: str, machine_id: str | None) -> Answer:
        """What came of it. A guest whose network is not what it must be is off its card."""
        try:
            return await doing
        except (StaleEpoch, Refused) as error:
            return Answer(problem=_problem(error), reason=str(error))
        except NoSuchNetwork:
            return Answer(problem="unknown", reason="the machine has no network of that epoch")
        except Breached as error:
            if machine_id is not None:
                with suppress(NetworkFault, OSError):
                    await self._networks.cut(machine_id)
            return Answer(problem="breached", reason=str(error)[:_REASON_MAX_CHARS])
        except (NetworkFault, OSError) as error:
            return Answer(problem="failed", reason=str(error)[:_REASON_MAX_CHARS])
        except Exception as error:  # one machine's fault must not take every machine's network along
            log.exception("request_failed", verb=verb)
            return Answer(problem="failed", reason=f"{type(error).__name__}: {error}"[:_REASON_MAX_CHARS])

    async def _act(self, request: Request) -> Answer:
        networks, answer = self._networks, Answer()
        match request:
            case Plug():
                answer = Answer(socket=str(await networks.plug(*_whose(request))))
            case Open():
                answer = _seen(await networks.open(*_whose(request), lease_id=request.lease_id, route=request.route))
            case Verify():
                answer = _seen(await networks.verify(*_whose(request)))
            case Seal():
                answer = Answer(capture=await networks.seal(*_whose(request)))
            case Close():
                await networks.close(*_whose(request))
            case Inventory():
                standing = tuple(
                    Standing(machine_id=one.machine_id, epoch=one.epoch, route=one.route) for one in networks.standing()
                )
                answer = Answer(networks=standing, routes=networks.routes())
            case Fences():
                answer = Answer(fences=await networks.fences(request.after))
            case Watch():
                raise NetworkFault("a watch is a conversation, not a request")
        return answer

    async def _look(self) -> None:
        """What is in doubt is compared with what it must be; whoever watches hears of a breach."""
        while True:
            doubted = await self._doubts.oldest()
            could_look = await (self._look_at_egress() if doubted is None else self._look_at(doubted))
            if not could_look:
                asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._doubts.about, doubted)

    async def _look_at(self, machine_id: str) -> bool:
        """Whether it could be seen how the machine's network is."""
        answer = await self._outcome(self._looked_at(machine_id), "look", machine_id)
        network = self._networks.standing_of(machine_id)
        if answer.problem == "breached" and network is not None:
            log.error("isolation_was_breached", machine=machine_id, reason=answer.reason)
            of = {"machine_id": machine_id, "epoch": network.epoch, "lease_id": network.lease_id}
            await self._tell(answer.model_copy(update=of))
        return answer.problem != "failed"

    async def _looked_at(self, machine_id: str) -> Answer:
        return _seen(await self._networks.look(machine_id))

    async def _look_at_egress(self) -> bool:
        """Whether it could be seen how the egress namespace is. What is wrong with it is wrong with all who use it."""
        try:
            faults = await self._networks.faults_of_egress()
        except (NetworkFault, OSError) as error:
            log.warning("egress_was_not_seen", reason=str(error)[:_REASON_MAX_CHARS])
            return False
        if faults:
            log.error("egress_was_breached", reason="; ".join(faults)[:_REASON_MAX_CHARS])
            for network in self._networks.standing():
                if network.route == "internet":
                    self._doubts.about(network.machine_id)
        return True

    async def _tell(self, answer: Answer) -> None:
        loop = asyncio.get_running_loop()
        for watcher in list(self._watchers):
            try:
                async with asyncio.timeout(_WATCHER_PATIENCE_S):
                    await loop.sock_sendall(watcher, _packed(answer))
            except OSError:  # TimeoutError is one: nobody who does not listen holds up the others
                self._watchers.discard(watcher)


def _whose(request: Plug | Open | Verify | Seal | Close) -> tuple[str, int, Claim | None]:
    """For which machine, epoch and claim of its work it asks."""
    return request.machine_id, request.epoch, None if request.claim is None else Claim(*request.claim)


def _problem(error: StaleEpoch | Refused) -> Problem:
    if isinstance(error, StaleClaim):
        return "overtaken"
    return "stale" if isinstance(error, StaleEpoch) else "refused"


def _is_of(client: socket.socket, pid: int, group: str) -> bool:
    """Whether who connected is in the control group, in any tree; one that has ended meanwhile counts as in it.

    Who asks leaves a number behind when it ends, and another process may get it: that one's group proves nothing.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
        return any(group in line.split("/") for line in lines) or _has_ended(client)
    except OSError:
        return True


def _has_ended(client: socket.socket) -> bool:
    """Whether the process that connected has. A kernel before 6.5 cannot say, and is believed its number. OSError."""
    try:
        peer = client.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return False
        raise
    try:
        return bool(select.select([peer], [], [], 0)[0])
    finally:
        os.close(peer)


def _packed(answer: Answer) -> bytes:
    return answer.model_dump_json(exclude_none=True).encode()


def _seen(seen: Seen) -> Answer:
    return Answer(rules_sha256=seen.rules_sha256, passed=seen.passed, dropped=seen.dropped)
