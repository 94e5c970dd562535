"""The facts that a plugin may subscribe to, and what their fields may be compared with."""

from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from contracts.catalogue import FACTS
from contracts.envelope import Message
from contracts.plugins import StageFact

SUBSCRIBABLE: dict[str, type[Message]] = {
    fact.__name__: fact for fact in FACTS if issubclass(fact, StageFact) and fact.PUBLIC
}
ELSEWHERE = {fact.__name__ for fact in FACTS} - SUBSCRIBABLE.keys()
NEAR_MAX = 3


def fault_of_fact(name: str) -> str | None:
    """Why no plugin can subscribe to a fact of that name, and what is near it, or None."""
    if name in SUBSCRIBABLE:
        return None
    if name in ELSEWHERE:
        return f"{name} is not about the stages of a task; a plugin is told of {', '.join(sorted(SUBSCRIBABLE))}"
    return _unknown(f"there is no fact {name!r}", name, SUBSCRIBABLE)


def fault_of_filter(fact: str, field: str, allowed: tuple[Any, ...]) -> str | None:
    """Why the fact's field can never be one of the values, or None when it can."""
    fields = SUBSCRIBABLE[fact].model_fields
    if field not in fields:
        return _unknown(f"{fact} has no field {field!r}", field, fields)
    known = _type_of(fields[field])
    for value in allowed:
        try:
            is_possible = known.dump_python(known.validate_python(value, strict=True)) == value
        except ValidationError as error:
            return f"{value!r} is no {field} of {fact}: {error.errors()[0]['msg']}"
        if not is_possible:
            return f"{value!r} is no {field} of {fact}"
    return None


def _type_of(field: FieldInfo) -> TypeAdapter[Any]:
    """What the field may be, bounds and patterns included."""
    annotated: Any = Annotated[field.annotation, field]
    return TypeAdapter(annotated)


def _unknown(words: str, name: str, known: Any) -> str:
    near = get_close_matches(name, known, n=NEAR_MAX, cutoff=0.5)
    return f"{words}; did you mean {' or '.join(near)}?" if near else f"{words}; there are {', '.join(sorted(known))}"
