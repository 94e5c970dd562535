"""Fields of pydantic models as tables, from their JSON Schema."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from contracts import ids, submission

ALIASES: Mapping[str, str] = {
    get_args(alias)[1].pattern: name
    for module in (ids, submission)
    for name, alias in vars(module).items()
    if len(get_args(alias)) > 1 and getattr(get_args(alias)[1], "pattern", None)
}
PLAIN = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}
FORMATS = {"date-time": "instant", "path": "path", "binary": "file"}
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}
DEFAULT_MAX_CHARS = 60


def table(model: type[BaseModel]) -> list[str]:
    """A Markdown table of the model's fields: name, type with bounds, default, meaning."""
    schema = model.model_json_schema()
    return table_of(schema, schema.get("$defs", {}))


def table_of(schema: Mapping[str, Any], shapes: Mapping[str, Any]) -> list[str]:
    """The same from a schema of an object."""
    required = set(schema.get("required", ()))
    rows = [
        f"| `{name}` | {cell(type_of(field))} | {_default(name, field, required, shapes)} | {cell(_meaning(field))} |"
        for name, field in schema.get("properties", {}).items()
    ]
    return ["| field | type | default | meaning |", "|---|---|---|---|", *rows] if rows else ["No fields."]


def shapes_of(*models: type[BaseModel]) -> dict[str, Any]:
    """Every named shape that the models' fields refer to, by name."""
    found: dict[str, Any] = {}
    for model in models:
        found.update(model.model_json_schema().get("$defs", {}))
    return dict(sorted(found.items()))


def type_of(field: Mapping[str, Any]) -> str:
    """The type in words."""
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(type_of(choice) if choice != {"type": "null"} else "nothing" for choice in field["anyOf"])
    if "enum" in field or "const" in field:
        return " / ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") in ("array", "object"):
        return _container(field)
    return _scalar(field)


def _container(field: Mapping[str, Any]) -> str:
    if field["type"] == "array":
        return "list of " + type_of(field.get("items", {})) + _bounds(field)
    inner = field.get("additionalProperties")
    return "object of " + type_of(inner) if isinstance(inner, dict) else "object"


def _scalar(field: Mapping[str, Any]) -> str:
    if field.get("pattern") in ALIASES:
        return ALIASES[str(field["pattern"])]
    return FORMATS.get(str(field.get("format")), PLAIN.get(str(field.get("type")), "any")) + _bounds(field)


def cell(text: str) -> str:
    """Text that cannot end its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def _bounds(field: Mapping[str, Any]) -> str:
    words = [phrase.format(field[key]) for key, phrase in BOUNDS.items() if key in field]
    return f" ({', '.join(words)})" if words else ""


def _default(name: str, field: Mapping[str, Any], required: set[str], shapes: Mapping[str, Any]) -> str:
    if name in required:
        return "required"
    value = field.get("default", _NOTHING)
    if value is _NOTHING and "$ref" in field:
        value = shapes.get(str(field["$ref"]).rpartition("/")[2], {}).get("default", _NOTHING)
    if value is _NOTHING or value in (None, "", [], {}):
        return "empty" if value in ("", [], {}) else "none"
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{shown}`" if len(shown) <= DEFAULT_MAX_CHARS else "a whole table, see there"


def _meaning(field: Mapping[str, Any]) -> str:
    return str(field.get("description", ""))


_NOTHING = object()


def sections(shapes: Mapping[str, Any], level: str = "###") -> Iterator[str]:
    """A section for each shape: its sentence and its fields."""
    for name, schema in shapes.items():
        yield f"\n{level} {name}\n"
        yield from (
            [str(schema["description"]).split("\n\n")[0].replace("\n", " "), ""] if "description" in schema else ()
        )
        yield from table_of(schema, shapes)
