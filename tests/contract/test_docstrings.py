"""A public function that raises says so, with the name of what it raises."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tgsbench

PACKAGE = Path(tgsbench.__file__).parent
INVARIANTS = {"AssertionError", "NotImplementedError"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(node: ast.AST) -> Iterator[Function]:
    """Functions and methods whose names, and whose classes' names, have no leading underscore."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef) and not child.name.startswith("_"):
            if isinstance(child, ast.ClassDef):
                yield from public_functions(child)
            elif not is_command(child):
                yield child


def is_command(function: Function) -> bool:
    """A click command: its docstring is what `--help` prints."""
    calls = [d.func for d in function.decorator_list if isinstance(d, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr in ("command", "group") for call in calls)


def raised(function: Function) -> set[str]:
    """Names of the exceptions that its own body makes; one that is handed on has no name here."""
    todo, found = list(function.body), set()
    while todo:
        node = todo.pop()
        if isinstance(node, Function | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            made = node.exc.func
            found.add(made.attr if isinstance(made, ast.Attribute) else ast.unparse(made))
        todo += ast.iter_child_nodes(node)
    return {name for name in found if name[0].isupper()} - INVARIANTS


def silent(source: str) -> list[str]:
    """Public functions whose docstring does not name what they raise."""
    return [
        f"{function.name}, line {function.lineno}: {name}"
        for function in public_functions(ast.parse(source))
        for name in sorted(raised(function))
        if name not in (ast.get_docstring(function) or "")
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_what_a_public_function_raises_is_in_its_docstring(path):
    assert silent(path.read_text("utf-8")) == []


def test_a_function_that_keeps_silent_is_found():
    source = 'class A:\n    def read(self):\n        """Read it."""\n        raise TgsError("x")\n'
    assert silent(source) == ["read, line 2: TgsError"]
    assert silent(source.replace("Read it.", "Read it. Raises TgsError when it is gone.")) == []
    assert silent(source.replace("def read", "def _read")) == []
    assert silent(source.replace("    def read", '    @click.command("x")\n    def read')) == []
