"""Whether a plugin's code could start at all, seen without running any of it."""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE_MAX_BYTES = 1024 * 1024


def fault_of_entry(folder: Path, entry: str, kind: str = "host") -> str | None:
    """Why `module:function`, or `module:Class` of a guest plugin, cannot be called, or None when it is there."""
    module, _, function = entry.partition(":")
    wanted = f"{function}(context)" if kind == "host" else f"class {function}(GuestPlugin)"
    path = folder / f"{module}.py"
    if not path.is_file():
        return f"{path.name} is not in the folder; add it, with {'a function ' if kind == 'host' else ''}{wanted}"
    if path.stat().st_size > SOURCE_MAX_BYTES:
        return f"{path.name} is longer than {SOURCE_MAX_BYTES} bytes; move what is not code out of it"
    try:
        tree = ast.parse(path.read_bytes(), path.name)
    except SyntaxError as error:
        return f"{path.name}, line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{path.name} is not Python: {error}"
    if function not in _bound(tree):
        return f"{path.name} has no {function}; define {wanted} in it, or name another entry"
    return None


def _bound(tree: ast.Module) -> Iterator[str]:
    """Names that the module binds, wherever in it; what another scope binds is let pass too, and fails when it runs."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.alias(name=name, asname=other):
                yield other or name
            case _:
                continue
