import json
import shutil
from pathlib import Path

import pytest

import tgsbench
from tgsbench import presets
from tgsbench.launch.preflight import LocalMachine
from tgsbench.live import session
from tgsbench.presets import catalog
from tgsbench.results import run_columns
from tgsbench.store.run_dir import RunDir
from tgsbench.system.doctor import DoctorCheck
from tgsbench.tui import recorded
from tgsbench.tui.app import TgsApp

CHECKS = [
    DoctorCheck("python", "ok", "3.11.7"),
    DoctorCheck("GPUs", "warning", "none", "CPU presets and rehearsals run without one"),
    DoctorCheck("gloo", "failure", "two ranks cannot talk", "look at the firewall of the loopback interface"),
]
NUM_SHIPPED = len(presets.list_presets())
FAMILIES = ("llama2_", "llama3_", "tiny_", "yi_", "qwen3_8b_32k")
"""Of the shipped presets that these tests list, so that a screen of 24 rows shows what they look for."""
NUM_PRESETS = sum(name.startswith(FAMILIES) for name in presets.list_presets())
SIZES = [(80, 24), (120, 40)]


@pytest.fixture(autouse=True)
def _own_world(tmp_path, monkeypatch):
    """Settings, presets and runs of the test alone; a welcomed user; a machine of two cores."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("TGSBENCH_RUNS", raising=False)
    for name in ("NO_COLOR", "TMUX", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    root = str(Path(tgsbench.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tgsbench.launch.preflight.this_machine", lambda: LocalMachine([], 2, 16 << 30))
    monkeypatch.setattr("tgsbench.system.doctor.iter_checks", lambda root, **_: [(0, CHECKS)])
    monkeypatch.setattr(catalog, "files", _of_a_few_families)
    monkeypatch.setattr(run_columns, "_this_year", lambda: 2026)  # the recording's
    welcome(False, tmp_path)


_files = catalog.files


def _of_a_few_families(*kind):
    found = _files(*kind)
    if kind != ("presets",):
        return found
    ours = catalog.shipped("presets").resolve()
    return {
        name: path for name, path in found.items() if path.parent != ours or name.startswith((*FAMILIES, "_"))
    }


def welcome(wanted, tmp_path):
    settings = tmp_path / "config" / "tgsbench" / "tui.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(f"welcomed = {str(not wanted).lower()}\n")


@pytest.fixture
def runs_root(tmp_path):
    root = tmp_path / "runs"
    root.mkdir()
    return root


@pytest.fixture
def add_run(runs_root):
    """Copies the recording under another name, with changes to its result."""

    def add(name, **changes):
        run = RunDir(runs_root / name)
        shutil.copytree(recorded.recording(), run.path)
        document = json.loads((run.path / "result.json").read_text())
        document["run_id"] = name
        document.update(changes)
        (run.path / "result.json").write_text(json.dumps(document))
        return run

    return add


@pytest.fixture
def app(runs_root):
    return TgsApp(runs_root=runs_root)


def text_of(app):
    """What the screen shows, line by line."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


async def until(pilot, condition, what="", tries=300):
    """Let the app work until a condition holds; fails with what the screen shows."""
    for _ in range(tries):
        await pilot.pause(0.05)
        if condition():
            return
    raise AssertionError(f"never came: {what or condition}\n{text_of(pilot.app)}")


async def shows(pilot, *words):
    """Wait until the screen shows all of these words."""
    await until(pilot, lambda: all(word in text_of(pilot.app) for word in words), f"{words}")
    return text_of(pilot.app)


@pytest.fixture
def recording():
    return RunDir(Path(recorded.recording()))


@pytest.fixture
def copied(monkeypatch):
    """What went to the clipboard by OSC 52."""
    found = []
    monkeypatch.setattr(TgsApp, "copy_to_clipboard", lambda self, text: found.append(text))
    return found


@pytest.fixture
def opened(runs_root, recording):
    return TgsApp(runs_root=runs_root, opens=session.follow(recording))


async def line_of(pilot, words):
    """The line of the screen that holds these words."""
    return next(line for line in (await shows(pilot, words)).splitlines() if words in line)
