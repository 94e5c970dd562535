"""The process of a guest plugin on Linux: a user of its own, limits, no network, and the kernel's first choice to kill.

Nobody else in the guest is that user. So plugins cannot reach each other, nor the sample them.
"""

import contextlib
import os
import subprocess

from guest import limits
from guest.platforms import PlatformRefused, PluginProgram, processes
from guest.platforms.private_network import in_private_network

CAPABILITIES = {"read-files": "dac_read_search"}
"""What a manifest may ask for, and what the kernel calls it (capabilities(7))."""
PYTHON = "/usr/bin/python3"
_MIB = 1024 * 1024


def plugin_argv(program: PluginProgram) -> list[str]:
    """The whole command: a score, limits, the user with what it may, then the plugin. Raises PlatformRefused."""
    unknown = [name for name in program.capabilities if name not in CAPABILITIES]
    if unknown:
        raise PlatformRefused(f"there is no capability {unknown[0][:60]!r} here")
    kept = "".join(f",+{CAPABILITIES[name]}" for name in program.capabilities)
    uid, memory, written = program.uid, program.memory_mib * _MIB, program.scratch_mib * _MIB
    return [
        *("/usr/bin/choom", "-n", "400", "--"),
        *("/usr/bin/prlimit", f"--as={memory}:{memory}", f"--fsize={written}:{written}", "--core=0:0"),
        *(f"--nofile={limits.PLUGIN_FILES_MAX}:{limits.PLUGIN_FILES_MAX}",),
        *(f"--nproc={limits.PLUGIN_PROCESSES_MAX}:{limits.PLUGIN_PROCESSES_MAX}", "--"),
        *("/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"),
        *(f"--bounding-set=-all{kept}", f"--inh-caps=-all{kept}", f"--ambient-caps=-all{kept}", "--"),
        *("/usr/bin/nice", "-n", "5", PYTHON, "-I", "-B", str(program.bundle)),
    ]


def start(program: PluginProgram) -> "subprocess.Popen[bytes]":
    """The process runs. Raises PlatformRefused."""
    argv, uid = plugin_argv(program), program.uid
    home = str(program.scratch_dir)
    environment = {"HOME": home, "TMPDIR": home, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
    try:
        program.scratch_dir.mkdir(exist_ok=True)
        os.chown(program.scratch_dir, uid, uid)
        program.scratch_dir.chmod(0o700)
        for path in (program.bundle, program.bundle.parent):
            os.chown(path, 0, uid)
        program.bundle.chmod(0o440)
        program.bundle.parent.chmod(0o750)
        return in_private_network(
            lambda: subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=home,
                env=environment,
                start_new_session=True,
            )
        )
    except OSError as error:
        raise PlatformRefused(f"{program.name} cannot be started: {error}") from error


def end(process: "subprocess.Popen[bytes]", program: PluginProgram) -> None:
    """Nothing of the plugin's user runs."""
    process.kill()  # it may not have become that user yet
    processes.kill_all(lambda: processes.of_user(program.uid))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(limits.TOOL_TIMEOUT_S)
