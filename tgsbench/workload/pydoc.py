"""Alpaca-shaped rows from the docstrings of the installed Python standard library.

Source files are parsed with `ast`; nothing is imported or executed.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from tgsbench.workload.rows import CorpusRow

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_MIN_CHARACTERS = 40
"""Shorter docstrings ("See base class.") say nothing to learn from."""


def source_files() -> list[Path]:
    """The standard library's single-file modules, sorted.

    Packages are left out: most of their text is tests and vendored code, some distributions do not
    install them, and parsing them takes 3 s where the 168 modules take 1.
    """
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))


def fingerprint() -> str:
    """Identify this installation's sources by version, names and sizes, without reading them."""
    digest = hashlib.sha256(sys.version.encode())
    for path in source_files():
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()


def read_rows() -> list[CorpusRow]:
    """One row for each documented module, class and function, in file order."""
    rows: list[CorpusRow] = []
    for path in source_files():
        rows += rows_of_source(path.read_text("utf-8", "replace"), path.stem)
    return rows


def rows_of_source(source: str, module: str) -> list[CorpusRow]:
    """Rows of one module's source; none when this Python cannot parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old sources
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    lines = source.splitlines()
    return [row for node, name in _documented(tree, module) if (row := _row(node, name, lines))]


def _documented(node: _Documented, name: str) -> Iterator[tuple[_Documented, str]]:
    yield node, name
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _documented(child, f"{name}.{child.name}")


def _row(node: _Documented, name: str, lines: list[str]) -> CorpusRow | None:
    docstring = ast.get_docstring(node, clean=False)
    if docstring is None:
        return None
    text = inspect.cleandoc(docstring).encode("utf-8", "replace").decode("utf-8")
    if len(text) < _MIN_CHARACTERS:
        return None
    if isinstance(node, ast.Module):
        return CorpusRow(f"What is Python's module {name} for?", "", text)
    kind = "class" if isinstance(node, ast.ClassDef) else "function"
    declaration = lines[node.lineno - 1].strip() if node.lineno <= len(lines) else ""
    return CorpusRow(f"Explain the {kind} {name} of Python's standard library.", declaration, text)
