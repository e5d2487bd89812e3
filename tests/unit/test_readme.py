"""What the README lists is what is there: presets with their figures, and exit codes."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tgsbench import __version__, errors, presets, units
from tgsbench.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md", "docs/architecture.md")
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(autouse=True)
def away_from_user_presets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    presets.load_references.cache_clear()


def table(heading: str) -> list[list[str]]:
    """Cells of the one table under a heading, without its head."""
    section = re.split(r"^## ", README.partition(f"\n## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def preset_row(name: str) -> list[str]:
    preset = presets.resolve(name).preset
    published = {row.system: row for row in presets.load_references().get(name, [])}
    xtuner, llamafactory = published.get("xtuner"), published.get("llamafactory")
    gpus = f"{preset.world_size} x {preset.hardware.gpu.partition('-')[0]}"
    return [
        name,
        preset.model.name,
        gpus if preset.hardware.device == "cuda" else f"{preset.world_size} CPU ranks",
        units.length(preset.workload.seq_len),
        str(preset.parallel.sp),
        str(xtuner.tgs) if xtuner else "",
        str(xtuner.tflops) if xtuner else "",
        str(llamafactory.tgs or llamafactory.status) if llamafactory else "",
    ]


def test_the_table_of_presets_is_that_of_the_shipped_files():
    assert table("Presets") == [preset_row(name) for name in presets.list_presets()]


def test_descriptions_say_what_the_checkpointing_is():
    for name in presets.list_presets():
        preset = presets.resolve(name).preset
        saved = "attention saved" in preset.description
        assert not saved or preset.training.checkpointing == "selective", name
        assert "nothing recomputed" not in preset.description or preset.training.checkpointing == "none", name


def test_the_table_of_exit_codes_is_that_of_the_code():
    body = ast.parse(inspect.getsource(errors.ExitCode)).body[0].body
    meanings = {
        code.targets[0].id: meaning.value.value
        for code, meaning in zip(body[1::2], body[2::2], strict=True)
        if isinstance(code, ast.Assign)
    }
    assert set(meanings) == {code.name for code in ExitCode}
    rows = [[str(int(code)), code.name, meanings[code.name]] for code in ExitCode]
    assert [[a, b, c.replace("`", "")] for a, b, c in table("Exit codes")] == [
        [a, b, c.replace("`", "")] for a, b, c in rows
    ]


def test_the_python_snippet_is_the_example_that_is_run():
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    example = (ROOT / "examples" / "python_api.py").read_text()
    assert example.partition('"""\n\n')[2] == snippet
    assert len([line for line in snippet.splitlines() if line]) <= 10


def test_the_install_lines_name_extras_and_the_wheel_that_there_are():
    named = re.findall(r'pip install (?:-e )?"([^"\[]*)\[([a-z,]+)\]"', README)
    assert [where for where, _ in named] == [".", f"./tgsbench-{__version__}-py3-none-any.whl"]
    extras = {extra for _, extras in named for extra in extras.split(",")}
    assert extras <= set(PACKAGE["optional-dependencies"])
    lines = ("pip install torch", "pip install -e", "flash-attn --no")
    torch, clone, flash = (README.index(line) for line in lines)
    assert torch < clone < flash


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_of_a_document_leads_to_a_file(name):
    path = ROOT / name
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_that_a_document_names_is_there(name):
    """NAME and <name> stand for any; a path may begin at the root or inside tgsbench/."""
    text = (ROOT / name).read_text()
    paths = {path for path in re.findall(r"`([\w.<>/-]+/[\w.<>/-]*)`", text) if not path.startswith("/")}
    paths |= set(re.findall(r"`(\w+\.py)`", text))
    assert paths
    patterns = {path: re.sub(r"NAME|<\w+>", "*", path).rstrip("/") for path in paths}
    missing = [
        path
        for path, pattern in patterns.items()
        if not any(next(root.glob(pattern), None) for root in (ROOT, ROOT / "tgsbench"))
    ]
    assert missing == []


def test_the_changelog_has_the_version_that_is_built():
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased" and headings[1] == __version__


def test_ci_runs_targets_that_the_makefile_has():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    run = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = [line.removeprefix("make ") for line in run if line.startswith("make ")]
    assert targets == ["install", "check", "test", "install", "virtual-gpu", "test-virtual"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    assert [part["id"] for part in form["body"]] == ["what", "command", "output", "doctor", "run"]
