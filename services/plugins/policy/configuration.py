"""What a plugin is configured with: what the plan says, what the submission says for all, and the plugin's defaults."""

from typing import Any

from malbox.sdk.manifest import Manifest

PASSWORD = "password"  # noqa: S105 - the name of the option


def configuration(manifest: Manifest, planned: dict[str, Any], password: str | None) -> dict[str, Any]:
    """A plugin with an option `password` is given the submission's. Raises ManifestError for what does not fit."""
    takes_password = PASSWORD in manifest.config.get("properties", {})
    given = {PASSWORD: password} if takes_password and password is not None else {}
    return manifest.effective_config({**given, **planned})
