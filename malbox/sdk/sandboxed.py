"""The first process of ours in a sandbox: loads the plugin once, then forks for every run, and ends what a run leaves.

Started as `main(control_fd)` by the host. It never touches a byte of a sample: each run is a child of its own, so
nothing that one run does to its memory is there in the next. The child is forked ahead and waits for its run, which so
does not wait for the fork. Between two runs every other process is killed and reaped, and what was written is removed;
where that fails it ends itself, and with it the sandbox.
"""

import contextlib
import ctypes
import gc
import os
import resource
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from malbox.sdk import frames, landlock
from malbox.sdk.context import PluginFunction
from malbox.sdk.runner import PipeEmitter, load_plugin, run_once

SET_CHILD_SUBREAPER = 36  # prctl(2)
FDS_OF_A_RUN = 2
NOT_EMPTIED = 3


def main(control_fd: int) -> None:
    """Serves runs until the host closes the control socket."""
    control = Control(socket.socket(fileno=control_fd))
    start, _ = control.receive()
    function = _prepare(control, start)
    while True:
        child = Child(control, function)  # nobody else is there: what an earlier run left has ended
        request, descriptors = control.receive()
        while request["frame"] == "ping":
            control.send({"frame": "pong"})
            request, descriptors = control.receive()
        status = child.run(request, descriptors)
        _end_everybody_else()
        if not _emptied(start["emptied"]):
            _leave(NOT_EMPTIED)
        control.send({"frame": "idle", "status": status})


class Control:
    """The socket that the host speaks over, or its like to a child. A child closes both before it hears of its run."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """The next frame and the descriptors that came with it. The process ends with the stream."""
        header, descriptors, _, _ = socket.recv_fds(self.connection, frames.HEADER.size, FDS_OF_A_RUN)
        header += self._rest(frames.HEADER.size - len(header))
        _, length = frames.decode_header(header)
        return frames.decode_json(self._rest(length)), descriptors

    def send(self, frame: dict[str, Any]) -> None:
        """The frame is with the host, or the process ends: nobody is there to serve."""
        try:
            self.connection.sendall(frames.encode_json(frame))
        except OSError:
            _leave(0)

    def hand_over(self, frame: dict[str, Any], descriptors: list[int]) -> None:
        """The frame and the descriptors are with the child, should it still live. All of it is closed here."""
        content = frames.encode_json(frame)
        with self.connection, contextlib.suppress(OSError):
            socket.send_fds(self.connection, [content[: frames.HEADER.size]], descriptors)
            self.connection.sendall(content[frames.HEADER.size :])
        for descriptor in descriptors:
            os.close(descriptor)

    def _rest(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            piece = self.connection.recv(count - len(content))
            if not piece:
                _leave(0)
            content += piece
        return content


class Child:
    """The process of the next run. It waits, and has seen nothing of any sample."""

    def __init__(self, control: Control, function: PluginFunction) -> None:
        ours, theirs = socket.socketpair()
        self._line = Control(ours)
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            control.connection.close()
            _be_the_run(Control(theirs), function)
        theirs.close()

    def run(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """The run's process has ended; its wait status."""
        self._line.hand_over(request, descriptors)
        return os.waitpid(self._pid, 0)[1]


def _prepare(control: Control, start: dict[str, Any]) -> PluginFunction:
    """The walls stand, then the plugin is loaded, then the host knows. The process ends where one of them fails."""
    try:
        in_force = landlock.restrict(
            readable=start["readable"], executable=start["executable"], writable=start["writable"]
        )
        if ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError("the sandbox cannot collect what its runs leave")  # noqa: TRY301
        function = load_plugin(Path(start["plugin_dir"]), start["entry"])
    except BaseException as error:  # noqa: BLE001 - also a plugin that exits while it is loaded
        traceback.print_exc()
        control.send({"frame": "refused", "reason": f"{type(error).__name__}: {error}"[:1000]})
        _leave(1)
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise copy every page of what was loaded
    control.send({"frame": "ready", "landlock": in_force})
    return function


def _be_the_run(line: Control, function: PluginFunction) -> NoReturn:
    """The process ends without running anything that the plugin left behind."""
    try:
        landlock.leave_others_alone()
        request, (output, log) = line.receive()
        line.connection.close()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        cpu_s = request["cpu_s"]
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
        with os.fdopen(output, "wb") as stream:
            run_once(function, request, PipeEmitter(stream))
        sys.stdout.flush()
        sys.stderr.flush()
        os.closerange(1, 3)  # the log ends here, not only when the kernel has taken all memory back
    except BaseException:  # noqa: BLE001 - the host hears of it as a run without an outcome
        traceback.print_exc()
        _leave(1)
    _leave(0)


def _end_everybody_else() -> None:
    """No process is left but this one and the sandbox's init: a kill of all is one step for the kernel."""
    with contextlib.suppress(OSError):  # nobody there
        os.kill(-1, signal.SIGKILL)
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def _emptied(directories: list[str]) -> bool:
    try:
        for directory in directories:
            for entry in os.scandir(directory):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    Path(entry.path).unlink()
    except (OSError, RecursionError):
        return False
    return True


def _leave(status: int) -> NoReturn:
    os._exit(status)
