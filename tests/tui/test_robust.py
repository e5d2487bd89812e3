"""Whatever lies in a run folder, or happens to it: a message, never a traceback."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from textual.app import App

from benchmarks.simulate import Scenario, write_events
from tests.tui.conftest import shows, text_of, until
from tgsbench.cli.terminal import print_running
from tgsbench.errors import TgsError
from tgsbench.live import session
from tgsbench.presets import resolve
from tgsbench.schema.run import Manifest
from tgsbench.store import run_dir
from tgsbench.system.lifetime import process_identity
from tgsbench.tui import launching
from tgsbench.tui.app import TgsApp, open_app
from tgsbench.tui.screens.dialogs import Choice

DAMAGE = {
    "no manifest": lambda p: (p / "run.json").unlink(),
    "empty manifest": lambda p: (p / "run.json").write_text(""),
    "manifest of another type": lambda p: (p / "run.json").write_text("[1, 2]"),
    "newer manifest": lambda p: edit(p / "run.json", schema_version=99),
    "broken preset": lambda p: (p / "preset.toml").write_text("name = ["),
    "preset with unknown keys": lambda p: (p / "preset.toml").write_text('name = "x"\nsurprise = 1\n'),
    "preset is binary": lambda p: (p / "preset.toml").write_bytes(b"\xff\xfe\x00"),
    "no preset": lambda p: (p / "preset.toml").unlink(),
}
CONTROLS = b"\x1b[2J\x1b]0;x\x07\x00"
SURVIVED = {
    "broken result": lambda p: (p / "result.json").write_text("{"),
    "newer result": lambda p: edit(p / "result.json", schema_version=99),
    "no events": lambda p: shutil.rmtree(p / "events"),
    "garbage in events": lambda p: (p / "events" / "rank00003.jsonl").write_bytes(os.urandom(4000)),
    "newer events": lambda p: (p / "events" / "rank00000.jsonl").write_text('{"type":"x","v":9}\n'),
    "a rank outside the world": lambda p: shutil.copy(
        p / "events" / "rank00000.jsonl", p / "events" / "rank00042.jsonl"
    ),
    "no logs": lambda p: shutil.rmtree(p / "log"),
    "a log of control characters": lambda p: (p / "log" / "rank00000.log").write_bytes(
        b"\x1b[2J\x1b]0;x\x07\x00"
    ),
    "broken profile": lambda p: (p / "profile" / "hotspots.json").write_text("nope"),
}


def edit(path, **changes):
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | changes))


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_run_that_cannot_be_opened_says_why(add_run, damage):
    run = add_run("hurt")
    DAMAGE[damage](run.path)
    with pytest.raises(TgsError) as refused:
        session.follow(run)
    assert str(run.path) in refused.value.msg


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", DAMAGE, ids=str)
async def test_the_run_list_survives_a_damaged_run_and_opening_it(app, add_run, damage):
    hurt = add_run("hurt")
    add_run("sound")
    DAMAGE[damage](hurt.path)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.press("2")
        await shows(pilot, "sound", "✓ ok")
        for _ in range(2):
            await pilot.press("enter")
            await pilot.pause(0.2)
            await pilot.press("2", "j")
        assert "runs in" in text_of(app)


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", SURVIVED, ids=str)
async def test_a_hurt_run_still_opens_with_every_pane(runs_root, add_run, damage):
    run = add_run("hurt")
    SURVIVED[damage](run.path)
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.session.is_over)
        for key in "cruoap":
            await pilot.press(key)
            await pilot.pause()
            assert "tgsbench" in text_of(app)
        await pilot.press("2")
        await shows(pilot, "1 of 1 runs")


@pytest.mark.asyncio
async def test_a_newer_event_protocol_is_a_message_with_its_remedy(runs_root, add_run):
    run = add_run("future")
    (run.path / "result.json").unlink()
    SURVIVED["newer events"](run.path)
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(200, 40)) as pilot:
        await shows(pilot, "✗ unreadable", "event protocol 9", "upgrade tgsbench")


ABSURD = {
    "step_s": ("1e308", "5e-324", "-1", "0"),
    "tokens": ("9223372036854775807", "1" + "0" * 400),
    "mem_peak": ("-9223372036854775808", "1" + "0" * 400),
    "step": ("9223372036854775000", "1" + "0" * 400),
    "loss_sum": ("1e308",),
    "util": ("1e300",),
    "t": ("-1e308",),
}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("key", "value"), [(k, v) for k, values in ABSURD.items() for v in values], ids=lambda text: text[:8]
)
async def test_absurd_numbers_in_events_are_shown_or_skipped(runs_root, add_run, key, value):
    run = add_run("absurd")
    for file in run.events_dir.iterdir():
        file.write_text(re.sub(rf'"{key}":[-\d.]+', f'"{key}":{value}', file.read_text()))
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: app.session.is_over)
        assert not app.session.message
        for pane in "cruoa":
            await pilot.press(pane)
            await pilot.pause()
        assert "step time by rank" in text_of(app)


class FakeSupervisor:
    """A process in the place of a run's supervisor; ends on SIGINT as the real one does."""

    CODE = (  # blocked, a signal waits even where this process inherits that SIGINT is ignored
        "import signal as s; ends = [s.SIGINT, s.SIGTERM]; s.pthread_sigmask(s.SIG_BLOCK, ends);"
        "print('up', flush=True); s.sigwait(ends)"
    )

    def __init__(self, root, name="going", steps=400):
        preset = resolve("tiny_cpu", [f"measure.steps={steps}"]).preset
        self.run = run_dir.create(root, preset, name)
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE], stdout=subprocess.PIPE, start_new_session=True
        )
        self.process.stdout.readline()
        manifest = Manifest(
            run_id=name, preset="tiny_cpu", engine="fsdp2", created_unix=time.time(), world_size=2,
            device="cpu", host=os.uname().nodename, supervisor_pid=self.process.pid,
            supervisor_identity=process_identity(self.process.pid),
        )  # fmt: skip
        self.run.write("run.json", manifest)
        write_events(self.run.path, Scenario(world=2, steps=3, step_s=1.0, device="cpu", gpu_period_s=0))
        for rank in range(2):  # still going: no bye, no teardown
            path = self.run.events_dir / f"rank{rank:05}.jsonl"
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))

    def reap(self):
        self.process.poll()

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def going(runs_root):
    fake = FakeSupervisor(runs_root)
    yield fake
    fake.close()


@pytest.mark.asyncio
async def test_a_supervisor_that_dies_shows_as_the_runs_status(runs_root, going):
    app = TgsApp(runs_root=runs_root, opens=session.follow(going.run))
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "▶ running")
        os.kill(going.process.pid, signal.SIGKILL)
        await until(pilot, lambda: going.process.poll() is not None)
        await shows(pilot, "✗ crashed: the launcher")


@pytest.mark.asyncio
async def test_a_run_deleted_under_the_screen_is_a_message(runs_root, going):
    app = TgsApp(runs_root=runs_root, opens=session.follow(going.run))
    async with app.run_test(size=(160, 40)) as pilot:
        await shows(pilot, "▶ running")
        shutil.rmtree(going.run.path)
        await shows(pilot, "is gone")
        for key in "cruoae":
            await pilot.press(key)
        await pilot.press("2")
        await shows(pilot, "no runs in")


@pytest.mark.asyncio
async def test_stop_asks_first_and_letting_it_run_lets_it_run(runs_root, going):
    app = TgsApp(runs_root=runs_root, opens=session.follow(going.run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "▶ running", "s Stop")
        await pilot.press("s")
        await shows(pilot, "Stop going?", "keep what was measured")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Choice))
        await pilot.press("s")
        await shows(pilot, "Stop going?")
        await pilot.press("j", "j", "enter")
        await until(pilot, lambda: not isinstance(app.screen, Choice))
        assert going.process.poll() is None


@pytest.mark.asyncio
async def test_stop_and_keep_ends_the_supervisor_and_keeps_the_folder(runs_root, going):
    app = TgsApp(runs_root=runs_root, opens=session.follow(going.run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "▶ running")
        await pilot.press("s")
        await shows(pilot, "Stop going?")
        await pilot.press("enter")
        await until(pilot, lambda: going.process.poll() is not None, "SIGINT")
        await until(pilot, lambda: app.session.is_over)
    assert (going.run.path / "events" / "rank00000.jsonl").exists()


@pytest.mark.asyncio
async def test_stop_and_delete_removes_the_folder_once_the_run_is_over(runs_root, going):
    app = TgsApp(runs_root=runs_root, opens=session.follow(going.run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "▶ running")
        await pilot.press("s")
        await shows(pilot, "Stop going?")
        await pilot.press("j", "enter")
        await until(pilot, lambda: going.process.poll() is not None, "SIGINT")
        await until(pilot, lambda: not going.run.path.exists())
        await shows(pilot, "[2 Runs]")


@pytest.mark.asyncio
async def test_leaving_the_ui_leaves_the_run_and_says_how_to_come_back(runs_root, going, capsys):
    app = TgsApp(runs_root=runs_root, opens=session.follow(going.run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "▶ running")
        await pilot.press("q")
    assert going.process.poll() is None
    print_running(app.going_on())
    assert capsys.readouterr().err == f"going goes on: tgsbench attach {going.run.path}\n"


def test_a_bug_in_the_ui_is_handed_on_and_prints_no_traceback(runs_root, monkeypatch, capfd):
    def break_down(self):
        raise RuntimeError("a handler broke")

    monkeypatch.setattr("tgsbench.tui.screens.presets.PresetsScreen.action_edit", break_down)
    monkeypatch.setattr(TgsApp, "run", lambda self: App.run(self, headless=True, auto_pilot=press_e))
    with pytest.raises(RuntimeError, match="a handler broke"):
        open_app(runs_root=runs_root)
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err + shown.out


async def press_e(pilot):
    await shows(pilot, "fit this machine")
    await pilot.press("e")


@pytest.mark.asyncio
async def test_a_background_task_that_fails_is_told(app, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no such luck")

    monkeypatch.setattr("tgsbench.system.doctor.iter_checks", fail)
    monkeypatch.setattr(launching, "launch", fail)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: any("_check: RuntimeError" in n.message for n in app._notifications))
        app.launch(resolve("tiny_cpu").preset)
        await until(pilot, lambda: any("_launch: RuntimeError" in n.message for n in app._notifications))
        await until(pilot, lambda: not app._launching)


@pytest.mark.asyncio
async def test_only_a_run_that_is_over_and_is_a_run_can_be_deleted(going, tmp_path):
    from tgsbench.launch import detached
    from tgsbench.store.run_dir import RunDir

    with pytest.raises(TgsError, match="still running"):
        detached.discard(going.run)
    other = tmp_path / "precious"
    other.mkdir()
    with pytest.raises(TgsError):
        detached.discard(RunDir(other))
    link = tmp_path / "link"
    link.symlink_to(other)
    (other / "run.json").write_text(
        (going.run.path / "run.json").read_text().replace(str(going.process.pid), "0")
    )
    with pytest.raises(TgsError, match="no run folder"):
        detached.discard(RunDir(link))
    assert other.is_dir()
