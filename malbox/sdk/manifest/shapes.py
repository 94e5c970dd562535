"""The schemas of results: the part of JSON Schema whose cost is bounded by schema times result, whatever the result."""

from collections.abc import Iterator
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry

SHAPED_MAX_BYTES = 1024 * 1024
"""Of a JSON result whose schema is checked: a bigger one is refused."""
OF_ONE = frozenset({"additionalProperties", "items", "not"})
OF_MANY = frozenset({"prefixItems", "allOf", "anyOf", "oneOf"})
PLAIN = frozenset(
    {"type", "enum", "const", "required", "title", "description", "minimum", "maximum", "exclusiveMinimum"}
    | {"exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
)


def fault_of_shape(schema: dict[str, Any]) -> str | None:
    """Why no result is checked against that schema, or None when it is one that may be."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"not a JSON Schema: {error.message}; correct it"
    except RecursionError:
        return "nested too deeply; make it flatter"
    foreign = sorted(set(_foreign(schema)))
    if foreign:
        return f"{', '.join(foreign)}: not among the keywords that results are checked by; remove it"
    return None


def fault_of_result(name: str, schema: dict[str, Any], content: bytes) -> str | None:
    """Where JSON breaks its schema, in words of the schema alone: those of the result may be the sample's."""
    if len(content) > SHAPED_MAX_BYTES:
        return f"result {name} is over the limit of {SHAPED_MAX_BYTES} bytes of a result with a schema"
    validator = Draft202012Validator(schema, registry=Registry())
    fault = next(validator.iter_errors(orjson.loads(content)), None)
    if fault is None:
        return None
    return f"result {name} breaks its schema at {'/'.join(str(part) for part in fault.absolute_schema_path)}"


def _foreign(schema: object) -> Iterator[str]:
    """Keywords that are not taken: references and patterns can cost any time, on a result that a sample chose."""
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        if keyword == "properties":
            inner = list(value.values())
        elif keyword in OF_ONE:
            inner = [value]
        elif keyword in OF_MANY:
            inner = list(value)
        else:
            inner = []
            if keyword not in PLAIN:
                yield keyword
        for each in inner:
            yield from _foreign(each)
