"""Static plugins that ship, each in the real sandbox: what they need is there, and what they find comes out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from malbox.sdk.testing import SandboxedRun, run_sandboxed

BUILTIN = Path(__file__).parents[2] / "services" / "plugins" / "builtin"
TEXT = b"one line of text and http://a.evil-host.com/x\n" * 40
SAMPLES: dict[str, tuple[Callable[[], bytes], Callable[[SandboxedRun], object]]] = {
    "identity": (lambda: TEXT, lambda run: run.json("identity")["tlsh"] and run.json("identity")["ssdeep"]),
    "strings": (lambda: TEXT, lambda run: run.json("strings")["indicators"] and run.content["list"]),
}


@pytest.mark.promise("P33")
@pytest.mark.parametrize("plugin", sorted(SAMPLES))
def test_the_plugin_finds_in_the_sandbox_what_it_is_for(plugin: str, tmp_path: Path) -> None:
    """Its libraries and their data are reached there, its limits suffice, and its results are those of its manifest."""
    make, found = SAMPLES[plugin]
    tmp_path.chmod(0o755)
    sample = tmp_path / "sample"
    sample.write_bytes(make())
    run = run_sandboxed(BUILTIN / plugin, sample)
    assert (run.outcome, run.reason) == ("completed", ""), run.log
    assert found(run)
