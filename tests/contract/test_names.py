"""Names say one thing each."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "tgsbench"


def test_no_two_public_classes_have_one_name():
    places = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_functions_and_files_stay_small():
    spans, lines = [], {}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        lines[str(path.relative_to(PACKAGE))] = text.count("\n")
        spans += [
            (node.end_lineno - node.lineno + 1, f"{path.name}:{node.name}")
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
    spans.sort()
    assert spans[len(spans) // 2][0] <= 6
    assert spans[int(len(spans) * 0.95)][0] <= 30
    assert spans[-1][0] <= 60, spans[-1]
    assert max(lines.values()) < 600
