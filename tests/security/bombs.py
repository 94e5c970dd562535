"""What would take a host down, and has to be gone within its limit."""

from dataclasses import dataclass


@dataclass
class Bomb:
    """Something that would take the host down, and what may be left of it: nothing."""

    body: str
    timeout_s: int = 3


BOMBS = {
    "a fork bomb": Bomb("while True:\n        try: os.fork()\n        except OSError: pass"),
    "a fork bomb of daemons": Bomb("while True:\n        try: os.fork() and os.setsid()\n        except OSError: pass"),
    "ten gigabytes": Bomb("block = bytearray(10 * 1024 ** 3)\n    block[::4096] = b'x' * len(block[::4096])"),
    "ten gigabytes by many": Bomb(
        "for _ in range(40):\n        if os.fork() == 0:\n            block = os.urandom(1) * (100 * 1024 ** 2)\n"
        "            time.sleep(60)\n    time.sleep(60)"
    ),
    "endless output": Bomb("while True: print('x' * 65536)"),
    "endless results": Bomb("for n in range(10 ** 9): context.emit_bytes(f'file/{n}', b'x' * 65536)"),
    "a full scratch": Bomb("n = 0\n    while True:\n        open(f'/scratch/{n}', 'wb').write(bytes(2 ** 20)); n += 1"),
    "a daemon": Bomb(
        "if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(600)\n        os._exit(0)"
    ),
    "deafness": Bomb("[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 10, 12, 13, 15)]\n    time.sleep(600)"),
    "a standstill of itself": Bomb("os.kill(os.getpid(), signal.SIGSTOP)"),
    "processor time": Bomb("for _ in range(8): os.fork()\n    while True: pass"),
    "threads": Bomb(
        "while True:\n        try: threading.Thread(target=time.sleep, args=(600,)).start()\n        except: pass"
    ),
}
