"""Exports, read back by the programs that they are for: MLflow, W&B, pandas (TensorBoard: test_export.py).

They live in an environment of their own, which `make clients` makes; without it these tests fail, for a
test that is skipped proves nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.stored import FAST, a_preset, store_run
from tgsbench.events.emitter import Emitter
from tgsbench.schema.events import Bye, Hello, Step
from tgsbench.schema.run import Failure, Integrity, Loss

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".clients" / "bin" / "python"


def over_there(*words, **env):
    """Run the clients' Python with tgsbench on its path; returns what it printed."""
    assert PYTHON.exists(), "make clients makes the environment of these tests"
    done = subprocess.run(
        [PYTHON, *words], capture_output=True, text=True, cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT), "WANDB_SILENT": "true", **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One good run of two steps, one that ran out of memory, one whose documents are damaged."""
    root = tmp_path_factory.mktemp("store") / "runs"
    good = store_run(
        root, "good", a_preset(), created_unix=1000.0, loss=Loss(first=11.0, last=3.0),
        integrity=Integrity(tokens_ok=True, a2a_ok=True),
    )  # fmt: skip
    for rank in range(8):
        emitter = Emitter(good.events_dir / f"rank{rank:05d}.jsonl", rank)
        emitter.emit(Hello(world=8, host="h", device="NVIDIA A100-SXM4-80GB"))
        for step in range(2):
            seen = {"tokens": 1000, "labels": 10, "loss_sum": 20.0, "mem_peak": (step + 1) << 30}
            emitter.emit(Step(step=step, phase="measure", step_s=2.0 - step, **seen))
        emitter.emit(Bye())
    failure = Failure(kind="oom", reason="CUDA out of memory")
    store_run(root, "full", a_preset(), created_unix=500.0, samples=[], status="oom", failure=failure)
    damaged = store_run(root, "torn", a_preset())
    (damaged.path / "result.json").write_text("{")
    (damaged.path / "preset.toml").write_text("[")
    return root


def export(runs, form, target):
    words = ("-m", "tgsbench", "export", "--all", "--format", form, "--to", target, "--output", runs)
    done = over_there(*map(str, words))
    assert done.stdout == f"{target}: 2 runs (1 of them without a step), 2 steps\n"
    assert "left out" in done.stderr and "torn" in done.stderr
    return done


READ_MLFLOW = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(f"file:{sys.argv[1]}")
runs = client.search_runs([client.get_experiment_by_name("tgsbench").experiment_id])
print(json.dumps({run.info.run_name: {
    "status": run.info.status, "metrics": run.data.metrics, "params": run.data.params, "tags": run.data.tags,
    "tgs": [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, "measure.tgs")],
} for run in runs}))
"""


def test_mlflow_reads_every_run_under_names_that_say_what_they_are(runs, tmp_path):
    done = export(runs, "mlflow", tmp_path / "m")
    assert "MLFLOW_ALLOW_FILE_STORE=true" in done.stderr
    read = over_there("-c", READ_MLFLOW, str(tmp_path / "m"), MLFLOW_ALLOW_FILE_STORE="true")
    found = json.loads(read.stdout.splitlines()[-1])
    good = found["good"]
    assert (good["status"], found["full"]["status"]) == ("FINISHED", "FAILED")
    assert good["tgs"] == [[0, 500.0], [1, 1000.0]]
    metrics = good["metrics"]
    assert (metrics["first.loss"], metrics["last.loss"]) == (11.0, 3.0)
    assert metrics["max.mem_peak_gib"] == 61.2
    assert metrics["low95.tgs"] == min(FAST) and metrics["n.tgs"] == 7
    assert metrics["median.mfu"] > 0
    assert "median.loss" not in metrics and "median.mem_peak_gib" not in metrics
    assert good["tags"]["tgsbench.integrity"] == "ok"
    assert good["tags"]["tgsbench.gpu"] == "NVIDIA A100-SXM4-80GB"
    assert good["tags"]["tgsbench.version.torch"] == "2.13.0"
    assert found["full"]["tags"]["tgsbench.failure"] == "CUDA out of memory"


def test_mlflow_refuses_the_folder_without_the_variable_that_we_name(runs, tmp_path):
    export(runs, "mlflow", tmp_path / "m")
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_ALLOW_FILE_STORE"}
    done = subprocess.run(
        [PYTHON, "-c", READ_MLFLOW, tmp_path / "m"], env=env, capture_output=True, text=True
    )
    assert done.returncode and "MLFLOW_ALLOW_FILE_STORE" in done.stderr


READ_WANDB = """
import glob, json, struct, sys
from wandb.proto import wandb_internal_pb2


def records(path):  # LevelDB's log format after a head of 7 bytes; the package dropped its reader in 0.31
    whole, data, at = b"", open(path, "rb").read(), 7
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""


def items(updates):
    return {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in updates}


found = {}
for path in glob.glob(sys.argv[1] + "/**/*.wandb", recursive=True):
    name, config, summary, rows = "", {}, {}, []
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            name = record.run.display_name or name
            config |= items(record.run.config.update)
        if record.HasField("history"):
            rows.append(items(record.history.item))
        if record.HasField("summary"):
            summary |= items(record.summary.update)
    found[name] = {"config": config, "summary": summary, "rows": rows}
print(json.dumps(found))
"""


def test_wandb_reads_its_offline_folder(runs, tmp_path):
    done = export(runs, "wandb-offline", tmp_path / "w")
    assert "wandb sync" in done.stderr
    found = json.loads(over_there("-c", READ_WANDB, str(tmp_path / "w")).stdout.splitlines()[-1])
    assert set(found) == {"good", "full"}
    good = found["good"]
    assert [row["measure/tgs"] for row in good["rows"] if "measure/tgs" in row] == [500.0, 1000.0]
    assert good["config"]["integrity"] == "ok" and good["config"]["sp"] == 1
    assert good["summary"]["last.loss"] == 3.0
    assert good["summary"]["max.mem_peak_gib"] == 61.2
    assert found["full"]["config"]["failure"] == "CUDA out of memory"


READ_PANDAS = """
import sys
import pandas
read = {"parquet": pandas.read_parquet, "jsonl": lambda path: pandas.read_json(path, lines=True)}
print(read[sys.argv[1]](sys.argv[2]).to_json(orient="records"))
"""


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_pandas_reads_a_table_that_needs_nothing_beside_it(runs, tmp_path, form):
    done = export(runs, form, tmp_path / f"x.{form}")
    assert f"pandas.read_{'parquet' if form == 'parquet' else 'json'}" in done.stderr
    rows = json.loads(over_there("-c", READ_PANDAS, form, str(tmp_path / f"x.{form}")).stdout)
    steps = [row for row in rows if row["run_id"] == "good"]
    (failed,) = [row for row in rows if row["run_id"] == "full"]
    assert [row["tgs"] for row in steps] == [500.0, 1000.0]
    for row in steps:
        assert (row["run.low95.tgs"], row["run.high95.tgs"], row["run.n.tgs"]) == (min(FAST), max(FAST), 7)
        assert row["run.median.mfu"] > 0
        assert (row["gpu"], row["integrity"]) == ("NVIDIA A100-SXM4-80GB", "ok")
        assert row["version.torch"] == "2.13.0"
    assert failed["status"] == "oom" and failed["step"] is None
