"""The state directory: where it lies, who owns what, and what an older layout is told."""

import os
import stat
from pathlib import Path

import pytest

from deploy.local import state as state_of
from deploy.local.state import DeployError, State, Users, is_open_to_all, locate, place, write_private

ME = Users(*(["root"] * 4 if os.geteuid() == 0 else [os.environ.get("USER", "nobody")] * 4))


def test_a_short_open_checkout_holds_its_own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where everybody may walk and paths are short, `.malbox` is a plain directory."""
    monkeypatch.setattr(state_of, "is_open_to_all", lambda _directory: True)
    monkeypatch.setattr(state_of, "PATH_MAX_CHARS", len(str(tmp_path)) + 20)
    assert place(tmp_path) == tmp_path / ".malbox"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs things as other users")
def test_a_closed_checkout_has_its_state_elsewhere(tmp_path: Path) -> None:
    """Unprivileged users could not reach a state directory below a closed one."""
    tmp_path.chmod(0o700)
    assert not is_open_to_all(tmp_path)
    assert place(tmp_path).parent == state_of.SYSTEM_STATES


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs things as other users")
def test_a_deep_checkout_has_its_state_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The sockets inside must fit into the kernel's 108 bytes."""
    monkeypatch.setattr(state_of, "is_open_to_all", lambda _directory: True)
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    assert len(str(place(deep))) < state_of.PATH_MAX_CHARS


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs things as other users")
def test_a_checkout_shown_inside_its_state_leads_to_that_state(tmp_path: Path) -> None:
    """A link that leads anywhere else, as in a copied checkout, is not followed."""
    shown = tmp_path / "state/checkout"
    shown.mkdir(parents=True)
    (shown / ".malbox").symlink_to(tmp_path / "state")
    assert place(shown) == tmp_path / "state"
    copied = tmp_path / "copied"
    copied.mkdir()
    (copied / ".malbox").symlink_to(tmp_path / "state")
    assert place(copied).parent == state_of.SYSTEM_STATES


def test_two_checkouts_never_share_a_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The name of a state directory elsewhere depends on the whole path of its checkout."""
    monkeypatch.setattr(state_of, "is_open_to_all", lambda _directory: False)
    assert place(tmp_path / "one") != place(tmp_path / "two")


def test_the_environment_may_name_the_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MALBOX_STATE goes before every rule."""
    monkeypatch.setenv("MALBOX_STATE", str(tmp_path / "here"))
    assert locate(tmp_path).root == tmp_path / "here"


@pytest.mark.promise("P47")
def test_a_secret_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    """The file is only ever readable by its owner, and writing the same again changes nothing."""
    path = tmp_path / "secret"
    assert write_private(path, "s")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not write_private(path, "s")
    path.chmod(0o644)
    assert write_private(path, "s")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_state_of_another_layout_is_left_alone_and_said_so(tmp_path: Path) -> None:
    """Nothing is written into it; the message names the way out."""
    (tmp_path / "layout").write_text("0\n")
    with pytest.raises(DeployError, match="move the directory away"):
        State(tmp_path, ME).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["layout"]
