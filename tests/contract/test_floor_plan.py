"""The import contracts of pyproject.toml: kept as the code stands, broken by a seeded violation of each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make check` runs, on the package that lies in `folder`."""
    code = "import sys; sys.path.insert(0, ''); from importlinter.cli import lint_imports_command; "
    code += "lint_imports_command()"
    argv = [sys.executable, "-c", code, "--no-cache"]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path) -> Path:
    skipped = shutil.ignore_patterns("__pycache__", "recorded")
    shutil.copytree(ROOT / "tgsbench", tmp_path / "tgsbench", ignore=skipped)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("store/run_dir.py", "from tgsbench.results import rows", "One floor plan"),
        ("planner/time.py", "from tgsbench.training import device", "One floor plan"),
        ("live/fold.py", "from tgsbench.tui import ascii", "One floor plan"),
        ("launch/sweep.py", "from tgsbench import api", "One floor plan"),
        ("results/rows.py", "import torch", "in tgsbench.training alone"),
        ("cli/run.py", "import transformers", "in tgsbench.training alone"),
        ("launch/local.py", "import textual", "Textual in tgsbench.tui alone"),
    ],
)
def test_a_seeded_violation_breaks_its_contract(copy, file, line, broken):
    path = copy / "tgsbench" / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1
    assert any(broken in row and "BROKEN" in row for row in done.stdout.splitlines()), done.stdout


def test_a_package_without_a_floor_is_refused(copy):
    (copy / "tgsbench" / "attic").mkdir()
    (copy / "tgsbench" / "attic" / "__init__.py").write_text("")
    done = lint(copy)
    assert done.returncode == 1
    assert "attic" in done.stdout


def test_the_floor_plan_holds(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout
