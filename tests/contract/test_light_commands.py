"""Commands that need no torch do not import it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.contract.cli import ROOT, environment, tgsbench, tgsbench_json

HEAVY = ("torch", "transformers", "textual", "deepspeed", "datasets", "numpy")


@pytest.mark.parametrize(
    "args",
    [
        ["presets"], ["presets", "show", "tiny_cpu"], ["runs"], ["run", "--help"], ["doctor", "--help"],
        ["verify", "--help"], ["verify", "--preset", "tiny_cpu", "--engine", "xtuner"],
        ["run", "--preset", "llama2_70b_8k", "--nodes", "a,b,c,d,e,f,g,h"],
        ["slurm", "--preset", "llama2_70b_1M"], ["plan", "--preset", "llama2_70b_1M"], ["show", "latest"],
        ["compare", "llama2_7b_8k", "published:llama2_7b_8k"],
        ["presets", "explain", "engine.tiled_mlp", "llama2_7b_8k"],
    ],
)  # fmt: skip
def test_no_heavy_module_is_imported(tmp_path, args):
    code = (
        "import sys\nfrom tgsbench.cli import main\n"
        f"sys.argv = ['tgsbench', *{args!r}]\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_presets_json_is_an_array_with_references(tmp_path):
    rows = tgsbench_json(tmp_path, "presets", "--json")
    by_name = {row["name"]: row for row in rows}
    row = by_name["llama2_70b_1M"]
    assert (row["model"], row["num_gpus"], row["seq_len"], row["sp"]) == ("Llama2-70B", 64, 1048576, 64)
    assert [(ref["system"], ref["tgs"]) for ref in row["references"]] == [("xtuner", 21.8)]
    assert by_name["llama2_7b_128k"]["references"][1]["status"] == "oom"


def test_show_origin_says_where_values_come_from(tmp_path):
    text = tgsbench(
        tmp_path, "presets", "show", "llama2_7b_8k", "--origin", "--set", "measure.steps=4"
    ).stdout
    lines = {line.split(" = ")[0]: line for line in text.splitlines()}
    assert lines["measure.steps"].endswith("--set")
    assert lines["workload.seq_len"].endswith("llama2_7b_8k.toml")
    assert lines["training.lr"].endswith("_reference.toml")
    assert lines["model.num_layers"].endswith("models/llama2_7b.toml")
    assert lines["training.micro_batch"].endswith("_reference.toml")
    assert lines["measure.heartbeat_s"].endswith("default")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (
            ["run", "--preset", "llama2_70b_1M", "--headless"],
            3,
            ["needs 64 GPUs", "--rehearse", "tgsbench plan"],
        ),
        (["run", "--preset", "lama2_70b_1M", "--headless"], 4, ["nearest: llama2_70b_1M"]),
        (["run", "--preset", "tiny_cpu", "--headless", "--set", "parallel.sp=3"], 4, ["nearest: 1, 2"]),
        (["run", "--preset", "tiny_cpu", "--headless", "--engine", "fsdp3"], 4, ["none of fsdp2, deepspeed"]),
        (["run", "--headless"], 2, ["--preset"]),
        (["rnu"], 2, ["nearest: run"]),
        (["verify", "--preset", "lama2_70b_1M"], 4, ["nearest: llama2_70b_1M"]),
        (["verify", "--preset", "tiny_cpu", "--engine", "fsdp3"], 4, ["none of fsdp2, deepspeed"]),
        (["verify", "--preset", "tiny_cpu", "--engine", "xtuner"], 13, ["--engine fsdp2"]),
        (["show", "nothing"], 7, ["no run called 'nothing'"]),
        (["presets", "show", "../../etc/passwd"], 4, ["may hold letters"]),
    ],
)
def test_bad_input_has_a_message_a_remedy_and_its_own_exit_code(tmp_path, args, code, words):
    done = tgsbench(tmp_path, *args)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "runs").exists()


def test_validate_reports_every_problem(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('extends = "tiny_cpu"\ncolour = 1\n[parallel]\nsp = "x"\n')
    done = tgsbench(tmp_path, "presets", "validate", str(path))
    assert done.returncode == 4
    assert "2 problem" in done.stderr
    assert "colour: unknown key" in done.stderr
    assert "parallel.sp" in done.stderr


@pytest.mark.parametrize("args", [["run", "--headless"], ["verify"]])
def test_missing_torch_is_said_with_the_command_that_installs_it(tmp_path, args):
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "from tgsbench.cli import main\n"
        f"sys.argv = ['tgsbench', *{args!r}, '--preset', 'tiny_cpu']\nmain.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 6
    assert f'pip install -e "{ROOT}[train]"' in done.stderr


def test_a_runs_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "runs").write_text("in the way")
    done = tgsbench(tmp_path, "run", "--preset", "tiny_cpu", "--headless")
    assert done.returncode == 7
    assert "--output DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_is_one_message_and_a_file_with_the_traceback(tmp_path):
    code = (
        "import sys\nfrom tgsbench.cli import main, presets\n"
        "presets.catalog.list_presets = lambda: 1 / 0\n"
        "sys.argv = ['tgsbench', 'presets']\nmain.main()"
    )
    env = dict(environment(tmp_path), TMPDIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "a bug in tgsbench: ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
    (kept,) = tmp_path.glob("tgsbench-bug-*.txt")
    assert str(kept) in done.stderr
    assert kept.read_text().startswith("tgsbench presets\n")
    assert "Traceback" in kept.read_text()


def test_ctrl_c_while_python_still_imports_shows_no_traceback(tmp_path):
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    env = environment(tmp_path)
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    argv = [sys.executable, "-m", "tgsbench", "presets"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
