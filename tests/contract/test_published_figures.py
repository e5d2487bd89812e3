"""A published figure reads the same in every place that shows it: as its source printed it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks.simulate import Scenario, rank_events
from tests.unit.stored import a_preset, a_result, store_run
from tgsbench.cli.main import cli
from tgsbench.launch.preflight import LocalMachine
from tgsbench.live.explain import explain
from tgsbench.live.fold import LiveRun
from tgsbench.live.headline import RunView, StepPlan
from tgsbench.metrics.reference import compare_with_published
from tgsbench.presets.catalog import load_references
from tgsbench.results import row_specs
from tgsbench.tui import live_text, preset_rows, run_rows

FIGURES = {"llama2_7b_8k": ("3028.3", ["3,028", "3028"]), "llama2_70b_256k": ("63.8", ["63.80"])}
"""Preset -> its published TGS, and how rounding for people would print it."""
DEVICE = "NVIDIA A100-SXM4-80GB"


def _cli(*args: str) -> str:
    done = CliRunner().invoke(cli, args, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def _html(name: str, tmp_path: Path) -> str:
    _cli("report", "measured", "--output", str(tmp_path), "--html", str(tmp_path / "page.html"))
    return (tmp_path / "page.html").read_text()


def _drawn(thing: object) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


def _view(name: str) -> RunView:
    preset = a_preset(name)
    live = LiveRun(8)
    scenario = Scenario(world=8, device=DEVICE, step_s=3.0, steps=10, gpu_period_s=0)
    for rank in range(8):
        live.add_events(rank_events(scenario, rank))
    return RunView(StepPlan.of(preset), live)


def _preset_row(name: str) -> preset_rows.PresetRow:
    rows = preset_rows.read_rows(LocalMachine([], 2, 16 << 30))
    return next(row for row in rows if row.name == name)


def _explained(name: str, _: Path) -> str:
    view = _view(name)
    found = explain("verdict", view, view.headline())
    assert found is not None
    return str(found.inputs)


def _compared(name: str, _: Path) -> str:
    rows = row_specs.published(name)
    return run_rows.markdown(run_rows.compare_table(rows, 0))


PLACES: dict[str, Callable[[str, Path], str]] = {
    "presets": lambda name, _: _cli("presets"),
    "plan": lambda name, _: _cli("plan", "--preset", name),
    "show": lambda name, root: _cli("show", "measured", "--output", str(root)),
    "compare": lambda name, root: _cli("compare", "measured", f"xtuner:{name}", "--output", str(root)),
    "compare --json": lambda name, root: _cli(
        "compare", "measured", f"xtuner:{name}", "--json", "--output", str(root)
    ),
    "report": lambda name, root: _cli("report", "measured", "--output", str(root)),
    "report --csv": lambda name, root: _cli("report", "measured", "--csv", "--output", str(root)),
    "report --json": lambda name, root: _cli("report", "measured", "--json", "--output", str(root)),
    "report --published": lambda name, _: _cli("report", "--published"),
    "page": _html,
    "screen of presets: list": lambda name, _: _preset_row(name).published,
    "screen of presets: detail": lambda name, _: _drawn(preset_rows.detail(_preset_row(name), {})),
    "live: verdict": lambda name, _: live_text.verdict_text(_view(name).headline().verdict),
    "live: legend": lambda name, _: live_text.charts(_view(name), 0)["chart-tgs"][1],
    "live: explanation": _explained,
    "screen of a comparison": _compared,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FIGURES)
def test_a_published_figure_has_its_sources_digits_everywhere(name, place, tmp_path):
    published, others = FIGURES[name]
    preset = a_preset(name)
    result = a_result(preset, "measured", samples=[3100.0 + i for i in range(8)], device=DEVICE)
    beside = [compare_with_published(preset, DEVICE, result.tgs, row) for row in load_references()[name]]
    store_run(tmp_path, "measured", preset, samples=result.tgs.samples, device=DEVICE, references=beside)
    text = PLACES[place](name, tmp_path)
    assert re.search(rf"(?<![\d.]){re.escape(published)}(?!\d)", text)
    for other in others:
        assert not re.search(rf"(?<![\d.,]){re.escape(other)}(?![\d.,])", text)
