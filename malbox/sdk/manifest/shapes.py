"""The schemas of results: the part of JSON Schema whose cost is bounded by schema times result, whatever the result."""

from collections.abc import Iterator
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry

SHAPED_MAX_BYTES = 1024 * 1024
"""Of a JSON result whose schema is checked: a bigger one is refused."""
SHAPED_RECORD_MAX_BYTES = 16 * 1024
"""Of one record of a guest plugin, which is checked while others wait."""
OF_EACH = frozenset({"additionalProperties", "items"})
OF_CHOICE = frozenset({"anyOf", "oneOf"})
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


def fault_of_result(name: str, schema: dict[str, Any], content: bytes, *, is_record: bool = False) -> str | None:
    """Where JSON breaks its schema, in words of the schema alone: those of the result may be the sample's."""
    limit, what = (SHAPED_RECORD_MAX_BYTES, "record") if is_record else (SHAPED_MAX_BYTES, "result")
    if len(content) > limit:
        return f"{what} {name} is over the limit of {limit} bytes of a {what} with a schema"
    validator = Draft202012Validator(schema, registry=Registry())
    try:
        fault = next(validator.iter_errors(orjson.loads(content)), None)
    except RecursionError:  # also while the fault is put into words
        return f"{what} {name} is nested too deeply to be checked by its schema"
    if fault is None:
        return None
    return f"result {name} breaks its schema at {'/'.join(str(part) for part in fault.absolute_schema_path)}"


def _foreign(schema: object, *, is_choice: bool = False) -> Iterator[str]:
    """Keywords that are not taken: references and patterns can cost any time, on a result that a sample chose.

    Of a choice every fault of every branch is gathered: there is nothing in it that is asked of each element.
    """
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
        if is_choice and keyword in OF_EACH and isinstance(value, dict):
            yield f"{keyword} inside anyOf or oneOf"
        for each in inner:
            yield from _foreign(each, is_choice=is_choice or keyword in OF_CHOICE)
