"""Base, agent and the agent's dependencies become a disk, a kernel and an initial ramdisk."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from guest.images import manifest as manifests
from guest.images.inspection import refuse_unsafe
from guest.images.recipe import FILES, Recipe, agent_files, agent_requirements, recipe_hash
from guest.images.tools import as_root, found, run

LOG = logging.getLogger("malbox.images")
STEP_TIMEOUT_S = 300
LABEL = "malbox"
_GUEST_PYTHON = "3.11"


@dataclass(frozen=True)
class AgentSource:
    """Where the agent comes from: a source tree, the lock file that pins its dependencies, the uv that fetches them."""

    tree: Path
    lock: Path
    uv: str


def assemble(recipe: Recipe, base: Path, agent: AgentSource, folder: Path) -> None:
    """`folder` holds the finished image: disk, kernel, initrd, manifest. Raises ImageError."""
    root = folder / "root"
    root.mkdir()
    LOG.info("unpacking the base")
    _run([*as_root(), found("tar"), "--extract", "--file", str(base), "--directory", str(root), "--exclude=./dev/*"])
    overlay = folder / "overlay"
    LOG.info("adding the agent")
    _lay_agent(overlay / "opt/malbox", agent.tree)
    pinned = _lay_dependencies(overlay / "opt/malbox/site", agent, folder)
    _compile(overlay / "opt/malbox")
    _run([*as_root(), found("cp"), "--recursive", "--no-preserve=ownership", f"{overlay}/.", str(root)])
    _take_kernel(root, folder)
    _import_agent(root)
    _inspect(root, recipe)
    packages = _packages(root)
    LOG.info("writing the disk")
    _write_disk(root, folder, recipe.disk_gib)
    _run([*as_root(), found("rm"), "--recursive", "--force", "--one-file-system", str(root), str(overlay)])
    manifests.write(folder, _manifest(recipe, folder, recipe_hash(recipe, agent.tree, agent.lock), packages, pinned))


def _run(argv: list[str], env: dict[str, str] | None = None) -> str:
    return run(argv, timeout_s=STEP_TIMEOUT_S, env=env)


def _lay_agent(target: Path, source: Path) -> None:
    for path in agent_files(source):
        destination = target / path.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)
    contracts = target / "contracts/__init__.py"
    contracts.parent.mkdir(parents=True, exist_ok=True)
    contracts.touch()
    shutil.copyfile(FILES / "init", target / "init")
    (target / "init").chmod(0o755)


def _lay_dependencies(target: Path, agent: AgentSource, scratch: Path) -> dict[str, str]:
    """The locked wheels of the guest's platform are in `target`; their versions by name."""
    lines = agent_requirements(agent.lock)
    wanted = scratch / "requirements.txt"
    wanted.write_text("".join(lines), encoding="utf-8")
    argv = [
        agent.uv,
        "pip",
        "install",
        "--quiet",
        "--target",
        str(target),
        "--require-hashes",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    argv += ["--python-version", _GUEST_PYTHON, "--python-platform", "x86_64-manylinux_2_28", "--link-mode", "copy"]
    _run([*argv, "--requirement", str(wanted)], env={**os.environ, "UV_NO_PROGRESS": "1"})
    wanted.unlink()
    return dict(line.rstrip(" \\\n").split("==") for line in lines if "==" in line)


def _compile(folder: Path) -> None:
    """Byte code is laid beside the sources, since compiling under emulation would cost seconds at each boot.

    Only when the host's interpreter is the guest's version: another one's byte code would be ignored.
    """
    python = shutil.which("python" + _GUEST_PYTHON, path="/usr/bin:/bin")
    if python is None:
        LOG.warning("python%s is not installed here: the agent starts slower", _GUEST_PYTHON)
        return
    argv = [python, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    _run([*argv, "-s", str(folder), "-p", "/opt/malbox", str(folder)])


def _take_kernel(root: Path, folder: Path) -> None:
    for link, name in (("vmlinuz", manifests.KERNEL), ("initrd.img", manifests.INITRD)):
        # The links at the root name the installed version relative to the root.
        inside = root / (root / link).readlink()
        _run([*as_root(), found("cp"), str(inside), str(folder / name)])
        _run([*as_root(), found("chmod"), "0644", str(folder / name)])
    _run(
        [
            *as_root(),
            found("rm"),
            "--recursive",
            "--force",
            str(root / "boot"),
            str(root / "vmlinuz"),
            str(root / "initrd.img"),
        ]
    )


def _import_agent(root: Path) -> None:
    """The guest's own interpreter can load the agent: what is missing shows here, not as a guest that never answers."""
    environment = ["PYTHONPATH=/opt/malbox:/opt/malbox/site", "PYTHONDONTWRITEBYTECODE=1", "PATH=/usr/bin:/bin"]
    within = [found("chroot"), str(root), "/usr/bin/env", "--ignore-environment", *environment]
    _run([*as_root(), *within, "/usr/bin/python3", "-c", "import guest.agent"])


def _inspect(root: Path, recipe: Recipe) -> None:
    if os.geteuid() == 0:
        refuse_unsafe(root, recipe.user)
        return
    # The tree belongs to subordinate ids, which only a process inside the namespace can read.
    argv = [found("python3"), "-m", "guest.images.build", "inspect", str(root), "--user", recipe.user]
    run([*as_root(), *argv], timeout_s=STEP_TIMEOUT_S, cwd=FILES.parents[2])


def _packages(root: Path) -> dict[str, str]:
    query = [
        found("dpkg-query"),
        f"--admindir={root / 'var/lib/dpkg'}",
        "--show",
        "--showformat=${Package} ${Version}\\n",
    ]
    return dict(line.split(" ", 1) for line in _run([*as_root(), *query]).splitlines())


def _write_disk(root: Path, folder: Path, size_gib: int) -> None:
    raw = folder / "disk.raw"
    options = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-L",
        LABEL,
        "-m",
        "0",
        "-O",
        "^has_journal,^metadata_csum",
        "-E",
        "lazy_itable_init=1",
    ]
    _run([*as_root(), found("mke2fs"), *options, "-d", str(root), str(raw), f"{size_gib}G"])
    _run([found("qemu-img"), "convert", "-f", "raw", "-O", "qcow2", str(raw), str(folder / manifests.DISK)])
    raw.unlink()


def _manifest(
    recipe: Recipe, folder: Path, recipe_sha256: str, packages: dict[str, str], pinned: dict[str, str]
) -> manifests.Manifest:
    return manifests.Manifest(
        name=recipe.name,
        platform="linux",
        arch="x86_64",
        recipe_hash=recipe_sha256,
        disk_sha256=manifests.sha256_of(folder / manifests.DISK),
        kernel_sha256=manifests.sha256_of(folder / manifests.KERNEL),
        initrd_sha256=manifests.sha256_of(folder / manifests.INITRD),
        kernel_arguments=list(recipe.kernel_arguments),
        disk_buses=list(recipe.disk_buses),
        firmwares=list(recipe.firmwares),
        user=recipe.user,
        packages=packages,
        python_packages=pinned,
    )
