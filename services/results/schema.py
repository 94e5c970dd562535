"""`python -m services.results.schema` writes the JSON Schema of the report, as it stands in docs/reference."""

import json
import sys

from services.results.domain.report import json_schema


def document() -> str:
    """The schema as text, the same at every run."""
    named = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:malbox:schema:report:v1"}
    return json.dumps({**named, **json_schema()}, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
