"""Which results of a stage are files found inside, and what each is called."""

import pytest

from services.plugins.children import NAME_MAX_BYTES, distinct, inside
from services.plugins.rows import Produced


def produced(plugin: str, name: str, content: str, size_bytes: int = 3) -> Produced:
    """One result."""
    return Produced(f"{plugin}/{name}", plugin, name, "application/octet-stream", content, size_bytes)


def test_each_content_is_found_once_in_an_order_of_its_own() -> None:
    """Results of one run are recorded in no order; the sample itself, empty files and other results are left out."""
    results = [
        produced("pdf", "children/0001", "b"),
        produced("archives", "children/0002", "b"),
        produced("archives", "children/0001", "a"),
        produced("archives", "archives", "c"),
        produced("archives", "children/0003", "sample"),
        produced("archives", "children/0004", "d", size_bytes=0),
    ]
    found = [one.result_id for one in distinct(results, "sample")]
    assert found == ["archives/children/0001", "archives/children/0002"]
    assert [one.result_id for one in distinct(results[::-1], "sample")] == found


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.zip > bin/b.sh", "bin/b.sh"),
        ("a.zip > inner.zip > c.py", "c.py"),
        ("attachment.exe", "attachment.exe"),
        ("", ""),
        ("a.zip > b\0c\n.sh", "b\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}.sh"),
        ("a.zip > " + "ü" * 300, "ü" * (NAME_MAX_BYTES // 2)),
    ],
)
def test_a_file_is_called_as_in_its_own_container(path: str, name: str) -> None:
    """Its end, where that is long; what no database stores and no line shows is replaced."""
    assert inside(path) == name
