"""The limits of the sandbox: what hostile plugins use up has an end, and no process of theirs survives its run."""

import asyncio
import os
import re
import time

import orjson
import pytest

from tests.security.network.processes import open_files
from tests.security.sandbox_bench import Bench, processes_with

ENDED_MAX_S = 60.0  # what is waited for, or ended, would last for ten minutes


@pytest.mark.promise("P34")
async def test_scratch_has_a_quota(bench: Bench) -> None:
    """8 MiB were given; writing goes on until there, and no further, in however many files."""
    said = await bench.said(
        """
        written = 0
        try:
            for number in range(40):
                with open(f"/scratch/{number}", "wb") as stream:
                    written += stream.write(bytes(1024 * 1024))
        except OSError:
            pass
        context.emit_json("said", written // (1024 * 1024))
        """
    )
    assert isinstance(said, int)
    assert 5 <= said <= 8


@pytest.mark.promise("P34")
async def test_a_fork_bomb_meets_a_limit_and_leaves_no_process(bench: Bench) -> None:
    """Forking fails at some small number; afterwards no process with the bomb's mark exists on the host."""
    marker = f"bomb{time.monotonic_ns()}"
    report = await bench.run(
        f"""
        children = 0
        try:
            while children < 1000:
                if os.fork() == 0:
                    os.execv("/usr/bin/sleep", ["{marker}", "600"])
                children += 1
        except OSError:
            pass
        context.emit_json("said", children)
        """
    )
    assert report.outcome == "completed", report.reason
    children = orjson.loads(report.results[0].path.read_bytes())
    assert 1 <= children < 48
    assert processes_with(marker) == []


@pytest.mark.promise("P34")
async def test_memory_is_bounded_in_one_process(bench: Bench) -> None:
    """128 MiB were given: 32 can be had, 256 cannot."""
    control = await bench.run("block = bytearray(32 * 1024 * 1024); context.emit_json('said', len(block))")
    report = await bench.run("block = bytearray(256 * 1024 * 1024); context.emit_json('said', len(block))")
    assert control.outcome == "completed"
    assert (report.outcome, report.results) == ("crashed", ())
    assert "memory" in report.reason


@pytest.mark.promise("P34")
async def test_memory_is_bounded_over_all_processes(bench: Bench) -> None:
    """Ten processes with 60 MiB each are over the limit together, though none is alone."""
    report = await bench.run(
        """
        for _ in range(10):
            if os.fork() == 0:
                block = bytearray(os.urandom(1)) * (60 * 1024 * 1024)
                time.sleep(60)
        time.sleep(30)
        """,
        timeout_s=25,
    )
    assert report.outcome == "crashed"
    assert "more than 128 MiB" in report.reason


@pytest.mark.promise("P34")
@pytest.mark.parametrize("stream", ["sys.stdout", "sys.stderr"])
async def test_endless_words_end_the_run(stream: str, bench: Bench) -> None:
    """The log keeps its beginning and counts the rest, in 64 KiB; the flood ends long before its deadline."""
    report = await bench.run(f"while True: {stream}.write('x' * 65536)", timeout_s=60)
    assert report.outcome == "crashed"
    assert "output" in report.reason
    flood, _, left_out = report.log.partition(b"\n")
    assert flood == b"x" * len(flood)
    assert re.fullmatch(rb"\[\d+ bytes more of log were not kept\]\n", left_out)
    assert 64 * 1024 - 100 < len(report.log) <= 64 * 1024
    assert report.duration_ms < 30_000


@pytest.mark.promise("P34")
async def test_a_plugin_that_ignores_signals_ends_at_its_deadline(bench: Bench) -> None:
    """Every catchable signal ignored, a child in a session of its own: both are gone at the deadline."""
    marker = f"stubborn{time.monotonic_ns()}"
    started = time.monotonic()
    report = await bench.run(
        f"""
        for number in range(1, 32):
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        if os.fork() == 0:
            os.setsid()
            os.execv("/usr/bin/python3", ["{marker}", "-c", "import time; time.sleep(600)"])
        while True:
            time.sleep(1)
        """,
        timeout_s=2,
    )
    assert report.outcome == "timed_out"
    assert 2 <= time.monotonic() - started < ENDED_MAX_S
    assert processes_with(marker) == []


@pytest.mark.promise("P34")
async def test_a_cancelled_run_leaves_no_process(bench: Bench) -> None:
    """The mark is seen while the plugin runs (control), and is gone once the cancelled call has returned."""
    marker = f"cancelled{time.monotonic_ns()}"
    body = f"""os.execv("/usr/bin/python3", ["{marker}", "-c", "import time; time.sleep(600)"])"""
    running = asyncio.create_task(bench.run(body))
    async with asyncio.timeout(ENDED_MAX_S):
        while not processes_with(marker):  # noqa: ASYNC110 - another process becomes it
            await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_with(marker) == []


async def test_no_file_descriptor_is_left_behind(bench: Bench) -> None:
    """Runs of every outcome later, the service holds no other descriptors than before."""
    await bench.run("pass")
    before = open_files(os.getpid())
    for body in ("pass", "os._exit(1)", "time.sleep(9)"):
        await bench.run(body, timeout_s=1)
    assert open_files(os.getpid()) - before == set()
