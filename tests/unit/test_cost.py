"""What a billion tokens take and cost: said where a price is, energy where power was measured."""

from __future__ import annotations

import csv
import io
import json

import msgspec
import pytest
from click.testing import CliRunner

from tests.unit.stored import FAST, a_preset, a_result, store_run
from tests.unit.test_results import events, result
from tgsbench.cli.compare import compare
from tgsbench.cli.report import report
from tgsbench.cli.show import show
from tgsbench.metrics import figures
from tgsbench.report.summary import summary_lines
from tgsbench.schema.events import Gpu, Step

MEDIAN = sorted(FAST)[len(FAST) // 2]
HOURS = 1e9 / MEDIAN / 3600


def typed(command, root, *words):
    done = CliRunner().invoke(command, [*words, "--output", str(root)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


@pytest.fixture
def root(tmp_path):
    store_run(tmp_path, "fast", power_w=350.0)
    store_run(tmp_path, "other")
    return tmp_path


def test_cost_follows_from_tgs_price_and_power():
    cost = figures.cost_of(1000.0, 2.0, 400.0)
    assert cost.gpu_hours == pytest.approx(1e9 / 1000 / 3600)
    assert cost.usd == pytest.approx(2 * cost.gpu_hours)
    # 400 W over 1,000 tokens/s are 0.4 J a token.
    assert cost.kwh == pytest.approx(0.4 * 1e9 / 3.6e6)
    assert figures.cost_of(1000.0, 0.0).usd is None


def test_compare_shows_cost_columns_with_a_price_and_none_without(root):
    assert "USD" not in typed(compare, root, "other", "other")
    shown = typed(compare, root, "fast", "other", "--price", "2.5")
    assert f"{2.5 * HOURS:,.0f}" in shown
    found = json.loads(typed(compare, root, "fast", "other", "--price", "2.5", "--json"))
    assert found["rows"][0]["cost"]["usd"] == pytest.approx(2.5 * HOURS)
    assert found["rows"][0]["cost"]["kwh"] == pytest.approx(HOURS * 0.35)
    assert found["rows"][1]["cost"].get("kwh") is None


def test_reports_carry_cost_in_tables_and_csv(root):
    text = typed(report, root, "fast", "--price", "2.5")
    assert "| USD/1B tokens" in text and f"{2.5 * HOURS:,.0f}" in text
    rows = list(csv.DictReader(io.StringIO(typed(report, root, "fast", "--csv", "--price", "2.5"))))
    (run,) = (row for row in rows if row["kind"] == "run")
    assert float(run["usd_per_1b_tokens"]) == pytest.approx(2.5 * HOURS)
    assert "USD/1B tokens" not in typed(report, root, "fast")


def test_show_says_cost_and_that_energy_was_not_measured(root):
    assert "kWh of the GPUs a billion tokens" in typed(show, root, "fast")
    shown = typed(show, root, "other", "--price", "2.5")
    assert "2.5 USD/GPU-hour" in shown and "energy not measured" in shown


def test_a_cpu_run_has_no_cost_unless_a_price_is_said():
    found = a_result(a_preset("tiny_cpu"), "r", device="cpu")
    assert not any(line.startswith("cost") for line in summary_lines(found))
    assert any("USD" in line for line in summary_lines(found, 0.1))


def test_power_is_the_mean_of_samples_in_measured_steps_alone():
    stream = []
    for event in events():
        if isinstance(event, Step):
            watts = 100.0 if event.phase == "warmup" else 300.0 + 20 * event.rank
            stream += [Gpu(rank=event.rank, power_w=watts), Gpu(rank=event.rank, power_w=0.0)]
        stream.append(event)
    assert result([*stream, Gpu(rank=0, power_w=50.0)]).power_w == pytest.approx(310.0)
    assert result(events()).power_w is None
    assert msgspec.json.decode(msgspec.json.encode(result(stream)))["power_w"] == pytest.approx(310.0)
