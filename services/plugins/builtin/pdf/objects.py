"""Goes through every object that the document has, not only those that are shown: what is hidden is of interest."""

from collections.abc import Iterator
from typing import Any

from pypdf import PdfReader
from pypdf.generic import ArrayObject, DictionaryObject, IndirectObject, StreamObject

from malbox.sdk.findings import printable

from .document import Document

OBJECTS_MAX = 50_000
NESTED_MAX = 2_000
NEXT_MAX = 20
SCRIPT_MAX_BYTES = 4 * 1024 * 1024
FILE_MAX_BYTES = 60 * 1024 * 1024
_METADATA = ("/Title", "/Author", "/Subject", "/Keywords", "/Creator", "/Producer", "/CreationDate", "/ModDate")
_COUNTED = {
    "/ObjStm": "object_streams",
    "/XRef": "cross_reference_streams",
    "/Page": "pages",
    "/EmbeddedFile": "embedded_files",
    "/Annot": "annotations",
    "/Font": "fonts",
}
_TARGETS = ("/F", "/UF", "/URI", "/Win", "/P", "/D")


class Scan:
    """One pass over the objects of a reader."""

    def __init__(self, reader: PdfReader, document: Document) -> None:
        self._reader = reader
        self._document = document
        self._faults = 0

    def scan(self) -> None:
        """Actions, scripts and files of every object are in the document."""
        self._metadata()
        self._names()
        for number, generation in self._numbers():
            try:
                self._object(number, self._reader.get_object(IndirectObject(number, generation, self._reader)))
            except Exception as error:  # noqa: BLE001 - one damaged object costs only itself
                self._faults += 1
                self._document.findings.problem(f"object {number}: {type(error).__name__}: {error}")

    def _numbers(self) -> Iterator[tuple[int, int]]:
        found = {(number, generation) for generation, table in self._reader.xref.items() for number in table}
        found |= {(number, 0) for number in self._reader.xref_objStm}
        if len(found) > OBJECTS_MAX:
            self._document.findings.truncated()
        yield from sorted(found)[:OBJECTS_MAX]

    def _metadata(self) -> None:
        try:
            for key, value in (self._reader.metadata or {}).items():
                if key in _METADATA:
                    self._document.metadata[key[1:]] = printable(str(value), 200)
        except Exception as error:  # noqa: BLE001 - damaged metadata costs only itself
            self._document.findings.problem(f"metadata: {type(error).__name__}: {error}")

    def _names(self) -> None:
        """Scripts in the catalogue's name tree run when the document is opened (ISO 32000-1, 12.6.4.16)."""
        try:
            tree = _plain(_dictionary(self._reader.trailer.get("/Root")).get("/Names"))
            scripts = _dictionary(_dictionary(tree).get("/JavaScript"))
            for action in _leaves(scripts):
                self._action(0, action, "name tree")
        except Exception as error:  # noqa: BLE001 - a damaged tree costs only itself
            self._document.findings.problem(f"names: {type(error).__name__}: {error}")

    def _object(self, number: int, value: Any) -> None:
        self._document.count("objects")
        for nested in _dictionaries(value):
            kind = _COUNTED.get(str(_plain(nested.get("/Type", ""))))
            if kind:
                self._document.count(kind)
            self._triggers(number, nested)
            if "/EF" in nested:
                self._file(number, nested)

    def _triggers(self, number: int, value: DictionaryObject) -> None:
        if "/OpenAction" in value:
            self._action(number, value["/OpenAction"], "OpenAction")
        for event, action in _dictionary(value.get("/AA")).items():
            self._action(number, action, f"AA {event}")
        if "/A" in value:
            self._action(number, value["/A"], "click")
        if "/S" in value and (
            "/JS" in value or "/URI" in value or str(_plain(value["/S"])) in ("/Launch", "/SubmitForm")
        ):
            self._action(number, value, "", is_alone=True)
        if "/XFA" in value:
            self._document.count("forms_in_xml")

    def _action(self, number: int, action: Any, trigger: str, *, is_alone: bool = False) -> None:
        """The action and those that follow it. One that stands alone was told already if something points to it."""
        for _ in range(NEXT_MAX):
            action = _plain(action)
            if not isinstance(action, DictionaryObject):
                return
            kind = str(_plain(action.get("/S", "")))[1:]
            if "/JS" in action:
                self._script(number, action, trigger, is_alone=is_alone)
            elif kind and not (is_alone and self._is_told(kind, _target(action))):
                self._document.action(number, kind, trigger, _target(action))
            action = action.get("/Next")

    def _script(self, number: int, action: DictionaryObject, trigger: str, *, is_alone: bool) -> None:
        value = _plain(action["/JS"])
        text = _decoded(value.get_data()[:SCRIPT_MAX_BYTES]) if isinstance(value, StreamObject) else str(value)
        if is_alone and any(one["size_chars"] == len(text) for one in self._document.scripts):
            return
        self._document.script(number, trigger, text)

    def _is_told(self, kind: str, target: str) -> bool:
        shown = printable(target, 1000)
        return any(one["kind"] == kind and one["target"] == shown for one in self._document.actions)

    def _file(self, number: int, specification: DictionaryObject) -> None:
        name = str(_plain(specification.get("/UF") or specification.get("/F") or ""))
        for value in _dictionary(specification["/EF"]).values():
            stream = _plain(value)
            if isinstance(stream, StreamObject):
                content = stream.get_data()
                if len(content) > FILE_MAX_BYTES:
                    self._document.findings.truncated()
                self._document.file(number, name, content[:FILE_MAX_BYTES])
                return


def _plain(value: Any) -> Any:
    """The object itself, where the value points to one."""
    return value.get_object() if isinstance(value, IndirectObject) else value


def _dictionary(value: Any) -> DictionaryObject:
    plain = _plain(value)
    return plain if isinstance(plain, DictionaryObject) else DictionaryObject()


def _dictionaries(value: Any) -> Iterator[DictionaryObject]:
    """The dictionaries that stand in the object itself, not behind a reference; at most so many."""
    waiting, found = [value], 0
    while waiting and found < NESTED_MAX:
        one = waiting.pop()
        found += 1
        if isinstance(one, DictionaryObject):
            yield one
            waiting.extend(list(dict.values(one))[:NESTED_MAX])
        elif isinstance(one, ArrayObject):
            waiting.extend(list(list.__iter__(one))[:NESTED_MAX])


def _leaves(tree: DictionaryObject) -> Iterator[Any]:
    """The values of a name tree, whose branches may go round in circles."""
    waiting, found = [tree], 0
    while waiting and found < NESTED_MAX:
        one = waiting.pop()
        found += 1
        waiting.extend(_dictionary(kid) for kid in _array(one.get("/Kids"))[:NESTED_MAX])
        yield from _array(one.get("/Names"))[1:NESTED_MAX:2]


def _array(value: Any) -> list[Any]:
    plain = _plain(value)
    return list(plain) if isinstance(plain, ArrayObject) else []


def _target(action: DictionaryObject, depth: int = 0) -> str:
    """Where the action leads: file specifications and Windows parameters are dictionaries of their own."""
    words = []
    for key in _TARGETS:
        value = _plain(action.get(key))
        if isinstance(value, DictionaryObject) and depth == 0:
            words.append(_target(value, 1))
        elif isinstance(value, str):
            words.append(str(value))
    return " ".join(dict.fromkeys(word for word in words if word))


def _decoded(content: bytes) -> str:
    """PDF's text: UTF-16 with a mark, else bytes."""
    if content.startswith((b"\xfe\xff", b"\xff\xfe")):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8", "replace")
