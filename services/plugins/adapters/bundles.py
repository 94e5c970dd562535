"""A guest plugin as it travels into a machine: one zip application with its files and the SDK it is written against.

The same files are the same bytes, so that the bundle's digest says exactly what ran. The machine's image holds neither
plugins nor the SDK: it need not be built again when one of them changes.
"""

import zipfile
from pathlib import Path

import malbox
from malbox.sdk.guest_runner import PACKAGE
from malbox.sdk.manifest import Manifest, ManifestError
from services.plugins.adapters.versions import files_of

BUNDLE_MAX_BYTES = 8 * 1024 * 1024
SDK_FILES = (
    "malbox/__init__.py",
    "malbox/sdk/__init__.py",
    "malbox/sdk/context.py",
    "malbox/sdk/frames.py",
    "malbox/sdk/guest.py",
    "malbox/sdk/guest_runner.py",
)
_ROOT = Path(malbox.__file__).parents[1]
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the zip format's first instant
_MODE = 0o100644 << 16


def write_bundle(manifest: Manifest, folder: Path, into: Path) -> None:
    """`into` is the bundle of the plugin in `folder`. Raises ManifestError, OSError."""
    parts = {name: (_ROOT / name).read_bytes() for name in SDK_FILES}
    parts |= {f"{PACKAGE}/{relative}": path.read_bytes() for path, relative in files_of(folder)}
    parts.setdefault(f"{PACKAGE}/__init__.py", b"")
    entry = f"from malbox.sdk.guest_runner import main\n\nmain({manifest.runtime.entry!r})\n"
    parts["__main__.py"] = entry.encode()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in sorted(parts.items()):
            described = zipfile.ZipInfo(name, _LONG_AGO)
            described.external_attr = _MODE
            bundle.writestr(described, content, zipfile.ZIP_DEFLATED)
    if into.stat().st_size > BUNDLE_MAX_BYTES:
        raise ManifestError(f"{folder}: more than {BUNDLE_MAX_BYTES} bytes when packed; leave out what is not needed")
