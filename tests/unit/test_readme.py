"""What the README lists is what is there: presets with their figures, and exit codes."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from tgsbench import errors, presets, units
from tgsbench.errors import ExitCode

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


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
