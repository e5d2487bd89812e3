"""TGS, TFLOPs, MFU and memory fractions are computed in metrics/figures.py and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "tgsbench"
HOME = PACKAGE / "metrics" / "figures.py"
DIVISORS = {"bf16_tflops": "the GPU's peak", "memory_gib": "the GPU's memory"}
"""Attributes of a GPU that only figures.py divides by."""
COSTS = {"flops_per_token"}
"""Functions whose answer only figures.py multiplies."""
SPEEDS = {"tokens_per_gpu", "tokens_per_step"}
"""Attributes that only figures.py divides by seconds."""


def names_of(node: ast.AST) -> set[str]:
    """Every name, attribute and called function in an expression."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.Name):
            found.add(part.id)
    return found


def derived(function: ast.AST, sources: set[str]) -> set[str]:
    """The sources, and the local names that are assigned from them, however many steps away."""
    found = set(sources)
    pairs = [
        (target, node.value)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    for _ in pairs:
        for target, value in pairs:
            if isinstance(target, ast.Name) and names_of(value) & found:
                found.add(target.id)
    return found


def strays(source: str) -> Iterator[str]:
    """What of a module computes a figure, one line each."""
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for scope in functions or [tree]:
        divisors = {name: derived(scope, {name}) for name in DIVISORS}
        costs = derived(scope, COSTS)
        for node in ast.walk(scope):
            if not isinstance(node, ast.BinOp):
                continue
            left, right = names_of(node.left), names_of(node.right)
            if isinstance(node.op, ast.Div):
                yield from (f"{node.lineno}: over {DIVISORS[n]}" for n in DIVISORS if right & divisors[n])
                if left & SPEEDS and any(name.endswith(("_s", "seconds")) for name in right):
                    yield f"{node.lineno}: tokens over seconds"
            if isinstance(node.op, ast.Mult) and (left | right) & costs:
                yield f"{node.lineno}: times the FLOPs of a token"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("mfu = tflops['model'] / gpu.bf16_tflops", "the GPU's peak"),
        ("peak = gpu.bf16_tflops\n    return tflops / peak", "the GPU's peak"),
        ("card = machine.gpu.memory_gib * GIB\n    return total / card", "the GPU's memory"),
        ("return total / (gpu.memory_gib * GIB)", "the GPU's memory"),
        ("return tgs * flops_per_token('model', shape, 1.0, 'none') / 1e12", "FLOPs of a token"),
        ("each = flops_per_token('palm', shape, 1.0, 'none')\n    return tgs * each", "FLOPs of a token"),
        ("return work.tokens_per_gpu / time.step_s", "tokens over seconds"),
    ],
)
def test_a_seeded_stray_is_found(line, what):
    (found,) = strays(f"def f():\n    {line}\n")
    assert what in found


def test_a_speed_and_a_cost_that_are_no_figures_are_left_alone():
    code = "flops = gpu.bf16_tflops * 1e12 * constants.gemm_share\n    return cost / network.gb_per_s"
    assert list(strays(f"def f():\n    {code}\n")) == []


def test_no_module_but_figures_computes_a_figure():
    modules = [path for path in sorted(PACKAGE.rglob("*.py")) if path != HOME]
    found = [f"{path.relative_to(PACKAGE)}:{text}" for path in modules for text in strays(path.read_text())]
    assert len(modules) > 200
    assert found == []
    assert list(strays(HOME.read_text())), "the one place is found by the same rules"
