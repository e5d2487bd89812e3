"""What lies in examples/ works as it is written there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from tests.contract.cli import ROOT, environment, tgsbench, tgsbench_json
from tgsbench.presets.catalog import read_toml
from tgsbench.presets.json_schema import preset_schema

EXAMPLES = ROOT / "examples"

RECORDED = f"""#!{sys.executable}
# Stands for tgsbench: `run` stores a run at the speed that $SPEED names, everything else is tgsbench itself.
import os, sys
from pathlib import Path
from tests.unit.stored import FAST, store_run
if sys.argv[1] == "run":
    words = dict(zip(sys.argv[2:], sys.argv[3:]))
    samples = [tgs * float(os.environ["SPEED"]) for tgs in FAST]
    store_run(Path(os.environ["TGSBENCH_RUNS"]), words["--name"], samples=samples)
else:
    from tgsbench.__main__ import main
    main()
"""


def test_every_example_is_named_in_their_readme():
    text = (EXAMPLES / "README.md").read_text()
    files = [path.name for path in EXAMPLES.iterdir() if path.is_file() and path.name != "README.md"]
    assert files and [name for name in files if f"`{name}`" not in text] == []


def test_the_preset_validates_keeps_to_the_schema_and_can_be_planned(tmp_path):
    path = EXAMPLES / "own_preset.toml"
    assert "ok" in tgsbench(tmp_path, "presets", "validate", str(path)).stdout
    jsonschema.validate(read_toml(path), preset_schema())
    found = tgsbench_json(tmp_path, "plan", "--preset", str(path), "--json")
    assert (found["preset"], found["seq_len"], found["checkpointing"]) == ("own_preset", 2048, "full")


def test_the_schema_is_printed_as_json(tmp_path):
    assert tgsbench_json(tmp_path, "presets", "schema") == json.loads(json.dumps(preset_schema()))


def test_the_sweep_plans_every_point_of_its_grid(tmp_path):
    found = tgsbench_json(tmp_path, "sweep", str(EXAMPLES / "sweep.toml"), "--dry-run", "--json")
    assert len(found) == 4
    assert {row["status"] for row in found} == {"to run"}
    assert [row["values"]["parallel.sp"] for row in found].count("2") == 2


def test_the_slurm_script_is_the_one_that_tgsbench_writes(tmp_path):
    command = next(
        line.split("`")[3] for line in (EXAMPLES / "README.md").read_text().splitlines() if "slurm.sh" in line
    )
    done = tgsbench(tmp_path, *command.split()[1:])
    assert done.stdout == (EXAMPLES / "slurm.sh").read_text()
    assert subprocess.run(["bash", "-n", str(EXAMPLES / "slurm.sh")], check=False).returncode == 0


def gate(home: Path, speed: float, *args: str) -> subprocess.CompletedProcess[str]:
    stand_in = home / "bin" / "tgsbench"
    stand_in.parent.mkdir(exist_ok=True)
    stand_in.write_text(RECORDED)
    stand_in.chmod(0o755)
    env = environment(home) | {"SPEED": str(speed), "PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
    argv = ["sh", str(EXAMPLES / "ci_gate.sh"), *args]
    return subprocess.run(argv, cwd=home, env=env, capture_output=True, text=True)


def test_the_gate_makes_a_baseline_and_fails_on_what_is_slower_than_it(tmp_path):
    first = gate(tmp_path, 1.0)
    assert (first.returncode, first.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny_cpu-baseline"]
    assert gate(tmp_path, 1.0).returncode == 0
    slower = gate(tmp_path, 0.9, "tiny_cpu", "5%")
    assert slower.returncode == 15 and "worse" in slower.stdout
    assert gate(tmp_path, 0.9, "tiny_cpu", "20%", "--steps", "6").returncode == 0
    assert len(list((tmp_path / "runs").glob("tiny_cpu-2*"))) == 3


@pytest.mark.dist
def test_the_python_example_forecasts_measures_and_compares(tmp_path):
    argv = [sys.executable, str(EXAMPLES / "python_api.py")]
    done = subprocess.run(argv, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    plan, compared, memory = done.stdout.splitlines()
    assert plan.startswith(("fits", "tight", "out of memory")) and "TgsRange" in plan
    assert "checkpointing" in compared
    assert float(memory) > 0
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/result.json")]
    assert sorted(result["checkpointing"] for result in results) == ["full", "none"]


def test_the_gates_workflow_is_yaml_whose_command_is_one_of_ours(tmp_path):
    workflow = msgspec.yaml.decode((EXAMPLES / "gate_workflow.yml").read_bytes())
    scripts = [step.get("run", "") for step in workflow["jobs"]["gate"]["steps"]]
    [script] = [script for script in scripts if "tgsbench gate" in script]
    options = re.findall(r"--[a-z]+", script)
    told = tgsbench(tmp_path, "gate", "--help").stdout
    assert options and all(f"{option} " in told for option in options)
