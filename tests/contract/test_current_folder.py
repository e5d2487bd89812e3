"""Nothing in the folder that tgsbench starts in is executed, by the command or by any process it starts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.contract.cli import ROOT, SMALL, environment
from tgsbench import presets
from tgsbench.external.process import ExternalProcess, peer_environment
from tgsbench.launch import slurm
from tgsbench.launch.command import supervisor_argv
from tgsbench.launch.nodes import preset_options
from tgsbench.live import backlog
from tgsbench.systems import environments
from tgsbench.tui import tensorboard

NAMES = (
    "queue", "msgspec", "torch", "json", "click", "rich", "numpy", "signal", "textual", "tomllib", "psutil",
    "socket", "pickle", "selectors", "tensorboard", "typing", "pathlib", "dataclasses", "transformers", "pip",
)  # fmt: skip


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A current folder in which every name leaves a mark when it is imported."""
    folder = tmp_path / "trap"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(
            f"open({str(tmp_path / 'sprung')!r}, 'a').write('{name}\\n')\nraise SystemExit(99)\n"
        )
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return folder


def _sprung(folder: Path) -> list[str]:
    mark = folder.parent / "sprung"
    return mark.read_text().split() if mark.exists() else []


def _run(argv: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(folder.parent), **more}
    env.pop("PYTHONSAFEPATH", None)
    return subprocess.run(
        argv,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_trap_is_sprung_by_a_python_that_takes_no_care(trap):
    _run([sys.executable, "-c", "import queue"], trap)
    assert _sprung(trap) == ["queue"]


@pytest.mark.parametrize("python_path", ["", str(ROOT), f"{ROOT}{os.pathsep}", os.pathsep])
@pytest.mark.parametrize("start", [["-m", "tgsbench"], None], ids=["python -m", "console script"])
def test_the_command_imports_nothing_from_the_current_folder(trap, start, python_path):
    words = [sys.executable, *start] if start else [str(Path(sys.executable).parent / "tgsbench")]
    for command in (["presets"], ["engines"], ["runs"]):
        done = _run([*words, *command], trap, PYTHONPATH=python_path)
        assert (done.returncode, _sprung(trap)) == (0, []), done.stderr


@pytest.mark.dist
def test_a_run_its_launcher_agent_and_ranks(trap):
    argv = [
        sys.executable,
        "-m",
        "tgsbench",
        "run",
        "--preset",
        "tiny_cpu",
        "--headless",
        "--steps",
        "2",
        *SMALL,
    ]
    done = _run([*argv, "--profile", "timeline"], trap, PYTHONPATH=f"{ROOT}{os.pathsep}")
    assert (done.returncode, _sprung(trap)) == (0, []), done.stderr
    (run,) = (trap.parent / "runs").iterdir()
    done = _run([sys.executable, "-m", "tgsbench", "profile", str(run)], trap)
    assert (done.returncode, _sprung(trap)) == (0, []), done.stderr


@pytest.mark.dist
def test_the_ranks_of_verify_and_those_of_another_engine(trap):
    argv = [sys.executable, "-m", "tgsbench", "verify", "--preset", "tiny_cpu", "--engine", "fsdp2"]
    done = _run([*argv, "--set", "model.num_layers=1"], trap)
    assert (done.returncode in (0, 16), _sprung(trap)) == (True, []), done.stderr


def test_the_dry_run_of_a_plan(trap):
    done = _run([sys.executable, "-m", "tgsbench", "plan", "--preset", "tiny_cpu", "--trace"], trap)
    assert (done.returncode, _sprung(trap)) == (0, []), done.stderr


def test_the_probes_of_the_doctor(trap):
    done = _run([sys.executable, "-m", "tgsbench", "doctor"], trap)
    assert _sprung(trap) == [], done.stdout + done.stderr
    assert "torch" in done.stdout


def test_what_the_ui_starts_imports_nothing_from_the_current_folder(trap, tmp_path, monkeypatch):
    for argv in (supervisor_argv(tmp_path / "none"), tensorboard.command(_Named(tmp_path / "none"))):
        _run(argv, trap)
    tails = backlog.RunTail(tmp_path / "none").tails()
    reader = backlog._Reader(tails)
    assert list(reader.parts()) == []
    reader.close()
    assert _sprung(trap) == []


def test_the_ui_of_a_browser_tab(trap):
    pytest.importorskip("textual_serve")
    from tgsbench.tui import serve

    argv = [*shlex.split(serve.server(8317).command), "--help"]
    done = _run(argv, trap)
    assert (done.returncode, _sprung(trap)) == (0, [])


class _Named:
    def __init__(self, path: Path) -> None:
        self.path = path


def test_the_script_of_a_job_sets_the_safe_path_before_it_starts_anything():
    preset = presets.resolve("tiny_cpu").preset
    options = preset_options("tiny_cpu", [], False)
    text = slurm.script(preset, options, slurm.JobOptions(python=sys.executable), Path("/runs"))
    assert text.index("export PYTHONSAFEPATH=1") < text.index("-m tgsbench run")


def test_another_systems_processes_are_started_safely(trap, tmp_path, monkeypatch):
    preset = presets.resolve("tiny_cpu").preset
    env = peer_environment(preset, {}, dict(os.environ, PYTHONPATH=f"{os.pathsep}x"))
    assert (env["PYTHONSAFEPATH"], "PYTHONPATH" in env) == ("1", False)
    scripts = tmp_path / "peer"
    scripts.mkdir()
    (scripts / "hello.py").write_text("import queue, json\nprint('hello')\n")
    monkeypatch.setattr("tgsbench.external.process.PEER", scripts)
    process = ExternalProcess(sys.executable, env, tmp_path / "log", _NeverStopped())
    assert process.script("hello.py") == "hello"
    assert _sprung(trap) == []


class _NeverStopped:
    asked = False


def test_pip_for_another_system_runs_without_the_current_folder(trap, tmp_path, monkeypatch):
    """`engines setup` up to pip, which here only says what it imports."""
    monkeypatch.setattr(venv, "create", lambda *_, **__: None)
    program = "import queue, json"
    monkeypatch.setattr(environments, "install_argv", lambda *_: [[sys.executable, "-c", program]])
    monkeypatch.setattr(environments.sys, "stderr", (tmp_path / "said").open("w"))
    monkeypatch.setattr(environments.sys, "version_info", (3, 11))
    environments.create("llamafactory", lambda _: None)
    assert _sprung(trap) == []
