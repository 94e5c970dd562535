"""Tells what is being done, what is being waited for and since when, while several things are done at once."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

Progress = Callable[[str], None]
"""Receives one line at a time."""

REMIND_EVERY_S = 5.0
NOTICEABLE_S = 0.5


def silent(_line: str) -> None:
    """For callers who do not want to be told."""


def run_together(stages: Mapping[str, Callable[[], str]], progress: Progress) -> None:
    """All stages are done; each says in a few words what it did. A fault is raised when all have ended."""
    began_s = time.monotonic()
    with ThreadPoolExecutor(max_workers=max(1, len(stages))) as pool:
        pending = {pool.submit(stage): name for name, stage in stages.items()}
        done: set[Future[str]] = set()
        while pending:
            ready, _ = wait(pending, timeout=REMIND_EVERY_S, return_when=FIRST_COMPLETED)
            for future in ready:
                _tell(pending.pop(future), future, time.monotonic() - began_s, progress)
            if not ready:
                progress(f"waiting for {', '.join(pending.values())} ({time.monotonic() - began_s:.0f} s so far)")
            done |= ready
    for future in done:
        future.result()


def await_all(
    waiting: Mapping[str, Callable[[], bool]], timeout_s: float, progress: Progress, poll_s: float = 0.1
) -> list[str]:
    """Waits until each predicate was true once. Returns the names of those that were not in time."""
    began_s = time.monotonic()
    open_names = list(waiting)
    remind_at = began_s + REMIND_EVERY_S
    while open_names and time.monotonic() - began_s < timeout_s:
        for name in list(open_names):
            if waiting[name]():
                open_names.remove(name)
                took_s = time.monotonic() - began_s
                if took_s > NOTICEABLE_S:
                    progress(f"{name}: ready after {took_s:.1f} s")
        if open_names and time.monotonic() > remind_at:
            remind_at += REMIND_EVERY_S
            progress(f"waiting for {', '.join(open_names)} ({time.monotonic() - began_s:.0f} s so far)")
        if open_names:
            time.sleep(poll_s)
    return open_names


def _tell(name: str, future: Future[str], took_s: float, progress: Progress) -> None:
    error = future.exception()
    progress(f"{name}: failed after {took_s:.1f} s" if error else f"{name}: {future.result()} after {took_s:.1f} s")
