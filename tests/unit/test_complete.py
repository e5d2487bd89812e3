"""What a shell offers: commands without importing them, and names of what there is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from tests.unit.stored import store_run
from tgsbench.cli.main import cli


def offered(*words: str) -> list[str]:
    *before, incomplete = words
    shell = ShellComplete(cli, {}, "tgsbench", "_TGSBENCH_COMPLETE")
    return [item.value for item in shell.get_completions(before, incomplete)]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TGSBENCH_RUNS", str(tmp_path / "runs"))
    for name in ("20260101-a", "20260102-b"):
        store_run(tmp_path / "runs", name)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["ru"], ["run", "runs"]),
        (["run", "--preset", "tiny"], ["tiny_cpu"]),
        (["verify", "--preset", "tiny"], ["tiny_cpu"]),
        (["slurm", "--preset", "tiny"], ["tiny_cpu"]),
        (["presets", "show", "yi_34b_1"], ["yi_34b_128k"]),
        (["run", "--preset", "tiny_cpu", "--engine", "deep"], ["deepspeed"]),
        (["engines", "setup", "xt"], ["xtuner"]),
        (["plan", "--gpu", "A100-SXM4-80"], ["A100-SXM4-80GB"]),
        (["plan", "--model", "llama2_7b"], ["llama2_7b"]),
        (["plan", "--link", "xdr8"], ["xdr800"]),
        (["show", "2026"], ["20260102-b", "20260101-a"]),
        (["show", "l"], ["latest"]),
        (["compare", "20260101-a", "20260102"], ["20260102-b"]),
        (["compare", "latest", "tiny"], ["tiny_cpu"]),
        (["export", "20260102"], ["20260102-b"]),
        (["runs", "tag", "20260102"], ["20260102-b"]),
        (["runs", "--sort", "tg"], ["tgs"]),
        (["runs", "pru"], ["prune"]),
    ],
)
def test_names_are_completed(words, names):
    found = offered(*words)
    assert found[: len(names)] == names
    assert all(name.startswith(words[-1]) for name in found)


def test_a_path_is_completed_as_a_file():
    shell = ShellComplete(cli, {}, "tgsbench", "_TGSBENCH_COMPLETE")
    (item,) = shell.get_completions(["run", "--preset"], "./my")
    assert item.type == "file"


def test_the_script_of_bash_and_a_completion_come_from_the_command_itself():
    env = {**os.environ, "_TGSBENCH_COMPLETE": "bash_source"}
    code = "import sys; sys.argv[0] = 'tgsbench'; from tgsbench.__main__ import main; main()"
    argv = [sys.executable, "-c", code]
    script = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert script.returncode == 0 and "complete -o nosort -F" in script.stdout, script.stderr
    env |= {"_TGSBENCH_COMPLETE": "bash_complete", "COMP_CWORD": "3"}
    env["COMP_WORDS"] = "tgsbench run --preset tiny"
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["plain,tiny_cpu"], done.stderr
