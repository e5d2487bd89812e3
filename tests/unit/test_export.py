"""Runs in the formats of other tools: each is read back with the format's own reader where there is one."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tests.unit.stored import a_preset, store_run
from tgsbench.cli.export import export
from tgsbench.errors import ExitCode, TgsError
from tgsbench.events.emitter import Emitter
from tgsbench.results.export import tensorboard_log
from tgsbench.results.export.series import series_of
from tgsbench.schema.events import Bye, Hello, Step

SECONDS = [2.0, 1.0, 1.25, 1.5]


@pytest.fixture
def run(tmp_path):
    preset = a_preset("tiny_cpu")
    told = {"created_unix": 1000.0, "device": "cpu", "samples": [512.0] * 6}
    stored = store_run(tmp_path / "runs", "one", preset, **told)
    for rank in range(2):
        emitter = Emitter(stored.events_dir / f"rank{rank:05d}.jsonl", rank)
        emitter.emit(Hello(world=2, host="h", device="cpu"))
        for index, step_s in enumerate(SECONDS):
            phase = "warmup" if index == 0 else "measure"
            seen = {"tokens": 512, "labels": 10, "loss_sum": 20.0, "mem_peak": 2**30}
            emitter.emit(Step(step=index, phase=phase, step_s=step_s, **seen))
        emitter.emit(Bye())
    return stored


def ask(run, form, target, *more):
    words = ["one", "--format", form, "--to", str(target), "--output", str(run.path.parent), *more]
    done = CliRunner().invoke(export, words)
    if done.exception is not None:
        raise done.exception
    return done.output


def test_every_step_is_a_row_with_figures_computed_from_events(run):
    series = series_of(run)
    assert [row.phase for row in series.steps] == ["warmup", "measure", "measure", "measure"]
    assert [row.figures["tgs"] for row in series.steps] == [512 / s for s in SECONDS]
    assert series.steps[-1].unix_t == 1000.0 + sum(SECONDS)
    assert series.steps[0].figures["loss"] == 2.0
    assert series.steps[0].figures["mem_peak_gib"] == 1.0
    assert "mfu" not in series.steps[0].figures  # no peak is known for a CPU


def test_json_lines(run, tmp_path):
    ask(run, "jsonl", tmp_path / "x.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert {row["run_id"] for row in rows} == {"one"}
    assert rows[1]["tgs"] == 512.0


def test_parquet(run, tmp_path):
    import pyarrow.parquet as parquet

    ask(run, "parquet", tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert table["tgs"] == [512 / s for s in SECONDS]
    assert table["sp"] == [2] * 4


def test_tensorboard_reads_scalars_and_hparams(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    tensorboard_log.write(series_of(run), tmp_path / "tb")
    found = EventAccumulator(str(tmp_path / "tb"))
    found.Reload()
    assert [s.value for s in found.Scalars("measure/tgs")] == pytest.approx([512 / s for s in SECONDS[1:]])
    assert [s.step for s in found.Scalars("measure/tgs")] == [1, 2, 3]
    assert found.Scalars("tgs")[0].value == 512.0
    assert found.Scalars("n.tgs")[0].value == 6
    assert found.Scalars("max.mem_peak_gib")[0].value == pytest.approx(61.2)
    assert "loss" not in found.Tags()["scalars"], "it was the last step's"
    assert {"measure/tflops_xtuner", "measure/mem_peak_gib"} <= set(found.Tags()["scalars"])
    content = found.PluginTagToContent(metadata.PLUGIN_NAME)
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["sp"].number_value == 2
    assert start.hparams["engine"].string_value == "fsdp2"
    assert start.hparams["integrity"].string_value == "not checked"
    assert metadata.SESSION_END_INFO_TAG in content


def test_mlflows_file_store(run, tmp_path):
    ask(run, "mlflow", tmp_path / "mlruns")
    metas = sorted((tmp_path / "mlruns").rglob("meta.yaml"))
    assert len(metas) == 2
    folder = next(m for m in metas if "run_id" in m.read_text()).parent
    points = [line.split() for line in (folder / "metrics" / "measure.tgs").read_text().splitlines()]
    assert [(float(v), int(s)) for _, v, s in points] == [(512 / s, i + 1) for i, s in enumerate(SECONDS[1:])]
    assert (folder / "params" / "sp").read_text() == "2"


def test_a_missing_package_is_named_with_its_command(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(TgsError, match="wandb") as raised:
        ask(run, "wandb-offline", tmp_path / "w")
    assert raised.value.exit_code == ExitCode.MISSING_DEPENDENCY


def test_nothing_is_overwritten(run, tmp_path):
    (tmp_path / "x.jsonl").write_text("mine")
    with pytest.raises(TgsError, match="already exists"):
        ask(run, "jsonl", tmp_path / "x.jsonl")
    assert (tmp_path / "x.jsonl").read_text() == "mine"
