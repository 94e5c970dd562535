"""A plugin's JSON result as blocks that any client can show, whatever the plugin."""

from typing import Any

import orjson

from services.results.domain.bounds import ROWS_SHOWN_MAX, SHORT_MAX_CHARS, cut, cut_text
from services.results.domain.inputs import Unreadable, writable
from services.results.domain.report import Block, FactsBlock, Section, TableBlock, TextBlock
from services.results.domain.result import Result

BLOCKS_MAX = 24
COLUMNS_MAX = 12
LISTED_MAX = 40
RAW_MAX_CHARS = 4000
SHOWN_ELSEWHERE = {"behaviour": frozenset({"processes", "timeline", "files", "network"})}
"""Lists of a plugin that the report has parts of its own for; the indicators of any plugin are one of them."""
ALWAYS_ELSEWHERE = frozenset({"indicators"})


def section(result: Result, content: bytes) -> Section:
    """The section of one result. Raises Unreadable for what is not JSON."""
    return Section(
        plugin=result.plugin,
        version=result.version,
        stage=result.stage,
        result_id=result.result_id,
        blocks=_blocks(result, _parsed(content)),
    )


def preview(result: Result, beginning: bytes) -> Section:
    """The section of a result that is text, such as what the sample printed."""
    text = beginning.decode("utf-8", "replace")
    block = TextBlock(title=_short(result.name), text=text, is_cut=result.size_bytes > len(beginning))
    return Section(
        plugin=result.plugin,
        version=result.version,
        stage=result.stage,
        result_id=result.result_id,
        blocks=(block,),
    )


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(writable(content))
    except orjson.JSONDecodeError as error:
        raise Unreadable("not JSON") from error


def _blocks(result: Result, document: Any) -> tuple[Block, ...]:
    if isinstance(document, list) and document and isinstance(document[0], dict):
        return (_table(result.name, document),)
    if not isinstance(document, dict):
        return (_raw(result.name, document),)
    hidden = SHOWN_ELSEWHERE.get(result.plugin, frozenset()) | ALWAYS_ELSEWHERE
    facts: list[tuple[str, str]] = []
    others: list[Block] = []
    for key, value in list(document.items())[:ROWS_SHOWN_MAX]:
        if key in hidden:
            continue
        if isinstance(value, dict) and value:
            others.append(FactsBlock(title=_short(key), facts=_facts(value)))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            others.append(_table(key, value))
        else:
            facts.append((_short(key), _cell(value)))
    first: list[Block] = [FactsBlock(title=_short(result.name), facts=tuple(facts))] if facts else []
    return tuple((first + others)[:BLOCKS_MAX])


def _facts(value: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((_short(key), _cell(item)) for key, item in list(value.items())[:ROWS_SHOWN_MAX])


def _table(title: str, items: list[Any]) -> TableBlock:
    shown, more = cut(items, ROWS_SHOWN_MAX)
    columns = list(dict.fromkeys(key for item in shown if isinstance(item, dict) for key in item))[:COLUMNS_MAX]
    rows = tuple(
        tuple(_cell(item.get(column, "") if isinstance(item, dict) else item) for column in columns) for item in shown
    )
    return TableBlock(title=_short(title), columns=tuple(_short(name) for name in columns), rows=rows, more=more)


def _raw(title: str, document: Any) -> TextBlock:
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
    return TextBlock(title=_short(title), text=text[:RAW_MAX_CHARS], is_cut=len(text) > RAW_MAX_CHARS)


def _cell(value: Any) -> str:
    """One value on one line: numbers and words as they are, lists joined, anything deeper as JSON."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case str():
            return _short(value)
        case int() | float():
            return str(value)
        case list() if all(isinstance(item, str | int | float) for item in value):
            more = f" … {len(value) - LISTED_MAX} more" if len(value) > LISTED_MAX else ""
            return _short(", ".join(_cell(item) for item in value[:LISTED_MAX])) + more
    return _short(orjson.dumps(value).decode())


def _short(text: str) -> str:
    return str(cut_text(text, SHORT_MAX_CHARS))
