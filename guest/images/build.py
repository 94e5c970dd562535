"""Builds, checks and verifies guest images.

    python -m guest.images.build linux --out DIR     DIR holds the image; nothing is done when it already does
    python -m guest.images.build verify DIR          every file has the hash that the manifest says
    python -m guest.images.build inspect TREE        an unpacked tree has no way in

DIR becomes a symbolic link to a sibling named after the recipe's hash, exchanged in one step: machines go on using the
version that their disks were made from, and an interrupted build leaves DIR as it was.
"""

import argparse
import logging
import os
import shutil
import sys
import time
from pathlib import Path

from guest.images.assemble import AgentSource, assemble
from guest.images.base import base_tar
from guest.images.disposal import only_one, remove, scratch
from guest.images.errors import ImageDamaged, ImageError
from guest.images.inspection import refuse_unsafe
from guest.images.manifest import read, verify
from guest.images.recipe import RECIPES, recipe_hash

LOG = logging.getLogger("malbox.images")
SOURCE = Path(__file__).resolve().parents[2]
VERSIONS_KEPT_MAX = 3
FREE_MIN_GIB = 3


def build(name: str, out: Path, *, cache: Path, agent: AgentSource) -> bool:
    """The image stands at `out`; False when it already did. Raises ImageError."""
    recipe = RECIPES[name]
    wanted = recipe_hash(recipe, agent.tree, agent.lock)
    out.parent.mkdir(parents=True, exist_ok=True)
    with only_one(out.parent / f".{out.name}.lock"):
        version = out.parent / f".{out.name}-{wanted[:16]}"
        if _is_built(version, wanted):
            changed = not out.is_symlink() or out.readlink() != Path(version.name)
            _point(out, version)
            return changed
        with scratch(f".{out.name}-building-", out.parent) as unfinished:
            _require_space(out.parent)
            assemble(recipe, base_tar(recipe, cache), agent, unfinished)
            _finish(unfinished, version)
        _point(out, version)
        _forget_old_versions(out, version)
    return True


def _is_built(version: Path, wanted: str) -> bool:
    try:
        return read(version).recipe_hash == wanted
    except ImageDamaged:
        return False


def _finish(unfinished: Path, version: Path) -> None:
    for path in unfinished.iterdir():
        path.chmod(0o444)
        _sync(path)
    remove(version)
    unfinished.rename(version)
    _sync(version.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(out: Path, version: Path) -> None:
    """`out` names the version, before and after this instant something whole."""
    if out.is_dir() and not out.is_symlink():
        raise ImageError(f"{out} is a directory that this build did not make: move it away")
    link = out.with_name(f".{out.name}-link")
    link.unlink(missing_ok=True)
    link.symlink_to(version.name)
    link.rename(out)


def _forget_old_versions(out: Path, newest: Path) -> None:
    versions = [
        path for path in out.parent.glob(f".{out.name}-*") if path.is_dir() and not path.is_symlink() and path != newest
    ]
    for version in sorted(versions, key=lambda path: path.stat().st_mtime, reverse=True)[VERSIONS_KEPT_MAX - 1 :]:
        remove(version)


def _require_space(folder: Path) -> None:
    free_gib = shutil.disk_usage(folder).free / (1 << 30)
    if free_gib < FREE_MIN_GIB:
        raise ImageError(f"{free_gib:.1f} GiB free at {folder}, an image needs {FREE_MIN_GIB} GiB while it is built")


def find_uv(given: str | None) -> str:
    """The path of uv: the given one, MALBOX_UV, beside this interpreter, or on the path. Raises ImageError."""
    beside = Path(sys.executable).with_name("uv")
    for candidate in (given, os.environ.get("MALBOX_UV"), str(beside), shutil.which("uv")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise ImageError("uv is needed to install the agent's dependencies: give --uv PATH or set MALBOX_UV")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m guest.images.build", description="Builds and checks guest images.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in RECIPES:
        recipe = verbs.add_parser(name, help=f"build the {name} image")
        recipe.add_argument("--out", type=Path, required=True)
        recipe.add_argument("--cache", type=Path, help="where bases are kept (default: OUT/../../cache)")
        recipe.add_argument("--source", type=Path, default=SOURCE, help="tree that the agent is taken from")
        recipe.add_argument("--lock", type=Path, default=SOURCE / "requirements.lock")
        recipe.add_argument("--uv", help="path of uv")
    verbs.add_parser("verify", help="compare an image with its manifest").add_argument("folder", type=Path)
    inspect = verbs.add_parser("inspect", help="refuse an unpacked tree that somebody could log in to")
    inspect.add_argument("tree", type=Path)
    inspect.add_argument("--user", default="sample")
    return parser.parse_args(argv)


def _carry_out(arguments: argparse.Namespace) -> str:
    if arguments.verb == "verify":
        return f"{verify(arguments.folder).name} is what its manifest says"
    if arguments.verb == "inspect":
        refuse_unsafe(arguments.tree, arguments.user)
        return "no way in was found"
    out = Path(os.path.abspath(arguments.out))  # noqa: PTH100 -- resolve() would follow the link that is replaced
    cache = arguments.cache or out.parent.parent / "cache"
    agent = AgentSource(tree=arguments.source.resolve(), lock=arguments.lock, uv=find_uv(arguments.uv))
    began_s = time.monotonic()
    is_new = build(arguments.verb, out, cache=cache.absolute(), agent=agent)
    return f"{arguments.verb}: {'built' if is_new else 'already built'} in {time.monotonic() - began_s:.1f} s"


def main(argv: list[str] | None = None) -> int:
    """The command; the exit status is 0 when what was asked holds."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        said = _carry_out(_arguments(argv))
    except ImageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(said + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
