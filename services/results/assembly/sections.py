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
    blocks, more = _blocks(result, _parsed(content))
    return _section(result, blocks, more)


def preview(result: Result, beginning: bytes) -> Section:
    """The section of a result that is text, such as what the sample printed."""
    text = beginning.decode("utf-8", "replace")
    block = TextBlock(title=_heading(result), text=text, is_cut=result.size_bytes > len(beginning))
    return _section(result, (block,), 0)


def _section(result: Result, blocks: tuple[Block, ...], more: int) -> Section:
    return Section(
        plugin=result.plugin,
        version=result.version,
        stage=result.stage,
        result_id=result.result_id,
        name=result.name,
        blocks=blocks,
        more=more,
        title=_title(result),
    )


def _title(result: Result) -> str:
    """The result's title, and which one it is where the plugin has many under that title."""
    _, _, one_of_many = result.name.partition("/")
    return _short(f"{result.title}: {one_of_many}" if result.title and one_of_many else result.title)


def _heading(result: Result) -> str:
    """What a block stands under that shows the result itself and not something in it."""
    return _title(result) or _short(result.name)


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(writable(content))
    except orjson.JSONDecodeError as error:
        raise Unreadable("not JSON") from error


def _blocks(result: Result, document: Any) -> tuple[tuple[Block, ...], int]:
    """The blocks, and how many values and blocks of the document are in none of them."""
    if isinstance(document, list) and document and isinstance(document[0], dict):
        return (_table(_heading(result), document),), 0
    if not isinstance(document, dict):
        return (_raw(_heading(result), document),), 0
    hidden = SHOWN_ELSEWHERE.get(result.plugin, frozenset()) | ALWAYS_ELSEWHERE
    facts: list[tuple[str, str]] = []
    others: list[Block] = []
    shown, more_values = cut([(key, value) for key, value in document.items() if key not in hidden], ROWS_SHOWN_MAX)
    for key, value in shown:
        if isinstance(value, dict) and value:
            others.append(_facts(key, value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            others.append(_table(key, value))
        else:
            facts.append((_short(key), _cell(value)))
    first: list[Block] = [FactsBlock(title=_heading(result), facts=tuple(facts))] if facts else []
    blocks, more_blocks = cut(first + others, BLOCKS_MAX)
    return blocks, more_values + more_blocks


def _facts(title: str, value: dict[str, Any]) -> FactsBlock:
    shown, more = cut(list(value.items()), ROWS_SHOWN_MAX)
    return FactsBlock(title=_short(title), facts=tuple((_short(key), _cell(item)) for key, item in shown), more=more)


def _table(title: str, items: list[Any]) -> TableBlock:
    shown, more = cut(items, ROWS_SHOWN_MAX)
    keys = list(dict.fromkeys(key for item in shown if isinstance(item, dict) for key in item))
    columns, more_columns = cut(keys, COLUMNS_MAX)
    rows = tuple(
        tuple(_cell(item.get(column, "") if isinstance(item, dict) else item) for column in columns) for item in shown
    )
    return TableBlock(
        title=_short(title),
        columns=tuple(_short(name) for name in columns),
        rows=rows,
        more=more,
        more_columns=more_columns,
    )


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
