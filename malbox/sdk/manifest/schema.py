"""The JSON Schema of `plugin.toml`, for editors and for whoever writes a manifest by program."""

from typing import Any

from malbox.sdk.manifest.model import Manifest

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def manifest_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12. What joins two keys, and what is in the folder, only `load_manifest` checks."""
    return {"$schema": DIALECT, "$id": "urn:malbox:schema:plugin-manifest", **Manifest.model_json_schema()}
