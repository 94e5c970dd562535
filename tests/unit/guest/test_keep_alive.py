"""A guest plugin keeps the observation alive for as long as it was told to, and lets go."""

import threading
from pathlib import Path

import pytest

from guest.journal import Journal
from guest.platforms.linux import Linux
from guest.plugins.syscalls import PluginRefused, SyscallTracer

LETTING_GO_MAX_S = 20.0


class Traced(Linux):
    """A platform whose tracer is there, wherever the test runs."""

    def check_tracer(self) -> None:
        """It is."""


def words_of(journal: Journal) -> list[tuple[str, bool]]:
    """Who held or let go, in order."""
    events = journal.after(0, wait_s=0)
    return [(event.keep_alive.plugin, event.keep_alive.is_held) for event in events if event.HasField("keep_alive")]


def armed(directory: Path, **config: object) -> tuple[SyscallTracer, Journal]:
    """The plugin observes into a fresh record."""
    plugin, journal = SyscallTracer(Traced()), Journal(directory, lease_id="lea_x", epoch=1)
    plugin.initialize(config)
    plugin.arm(journal)
    return plugin, journal


@pytest.mark.promise("C5")
def test_the_tracer_holds_the_observation_and_lets_go_by_itself(tmp_path: Path) -> None:
    """Arming it twice holds once."""
    plugin, journal = armed(tmp_path, keep_alive_s=1)
    plugin.arm(journal)
    assert words_of(journal) == [("syscalls", True)]
    assert journal.after(1, wait_s=LETTING_GO_MAX_S)
    assert words_of(journal) == [("syscalls", True), ("syscalls", False)]
    plugin.shutdown()
    journal.close()


def test_a_tracer_that_was_shut_down_leaves_no_timer_behind(tmp_path: Path) -> None:
    """It lets go with the session."""
    plugin, journal = armed(tmp_path, keep_alive_s=3600)
    before = threading.active_count()
    plugin.shutdown()
    [timer] = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    timer.join(LETTING_GO_MAX_S)
    assert threading.active_count() == before - 1
    journal.close()


def test_without_the_option_nothing_is_held(tmp_path: Path) -> None:
    """The positive control of the default; and what cannot be meant is refused."""
    _, journal = armed(tmp_path)
    assert words_of(journal) == []
    journal.close()
    with pytest.raises(PluginRefused, match="keep_alive_s 0-3600"):
        SyscallTracer(Traced()).initialize({"keep_alive_s": -1})
