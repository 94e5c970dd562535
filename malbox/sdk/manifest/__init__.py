"""`plugin.toml`: what a plugin is, when it applies and what it may use. Strict: whatever is not known here is an error.

An error names the file, the line where it can be found, the key, and what to write instead.
"""

from malbox.sdk.manifest.load import MANIFEST_MAX_BYTES, load_manifest
from malbox.sdk.manifest.model import About, Applies, Events, Manifest, ManifestError, Order, ResultSpec, Runtime, Scope
from malbox.sdk.manifest.schema import manifest_schema

__all__ = [
    "MANIFEST_MAX_BYTES",
    "About",
    "Applies",
    "Events",
    "Manifest",
    "ManifestError",
    "Order",
    "ResultSpec",
    "Runtime",
    "Scope",
    "load_manifest",
    "manifest_schema",
]
