"""No text of a file reaches a terminal or a page as anything but text: every field of every document."""

import json

import msgspec
import pytest
from click.testing import CliRunner

from tests.fuzz.filled import ESCAPES, FORBIDDEN, FORGED, filled, num_texts
from tests.tui.conftest import shows, text_of, until
from tgsbench import presets
from tgsbench.cli.main import cli
from tgsbench.live import session
from tgsbench.presets import catalog
from tgsbench.results import imported
from tgsbench.safe_files import TEXTS
from tgsbench.schema import events as ev
from tgsbench.schema.hotspots import Profile
from tgsbench.schema.run import LauncherReport, Manifest, Outcome, Result
from tgsbench.store.run_dir import RunDir
from tgsbench.tui.app import TgsApp
from tgsbench.tui.run_rows import comparison_row
from tgsbench.tui.screens.compare import CompareScreen

KINDS = ev._Rare.__args__
RANKS = {"v": 1, "t": 1.0, "rank": 0}
CAPTURE = {
    "num_steps": 1,
    "step_s": 1.0,
    "over_measured": 1.1,
    "traces": [{"rank": 0, "file": f"f{ESCAPES}", "num_bytes": 1, "export_s": 1.0, "steps": [1]}],
}


def hostile_run(root, name, status="crashed", with_result=True):
    """A run folder in which every text of every document is hostile."""
    run = RunDir(root / name)
    for sub in ("events", "log", "stacks", "profile"):
        (run.path / sub).mkdir(parents=True)
    tiny = presets.resolve("tiny_cpu").preset
    preset = presets.to_toml(
        msgspec.structs.replace(
            tiny, name=f"p{ESCAPES}", description=f"d{ESCAPES}", notes=[f"n{ESCAPES}"],
            model=msgspec.structs.replace(tiny.model, name=f"m{ESCAPES}"),
        )
    )  # fmt: skip
    (run.path / "preset.toml").write_text(preset)
    keep = {"schema_version": 1, "world_size": 1}
    documents = {
        "run.json": filled(Manifest, keep=keep | {"emulated": False, "for_verification": ""}),
        "outcome.json": filled(Outcome, keep={"schema_version": 1, "status": "exited", "exit_code": 1}),
        "launcher.json": filled(LauncherReport, keep={"schema_version": 1}),
        "env.json": {"cpu": f"c{ESCAPES}", "gpus": [f"g{ESCAPES}"], f"k{ESCAPES}": f"v{ESCAPES}"},
        "profile/hotspots.json": filled(Profile, keep={"schema_version": 1}),
    }
    if with_result:
        documents["result.json"] = filled(Result, keep=keep | {"status": status, "profile": CAPTURE})
    assert all(num_texts(document) for document in documents.values())
    for file, document in documents.items():
        (run.path / file).write_text(json.dumps(document, ensure_ascii=file == "result.json"))
    told = [filled(kind, keep=RANKS | {"seq": i}) for i, kind in enumerate(KINDS) if kind is not ev.Bye]
    lines = [json.dumps(event, ensure_ascii=i % 2 == 0) for i, event in enumerate(told)]
    (run.path / "events" / "rank00000.jsonl").write_text("\n".join(lines) + "\n")
    for file in ("log/rank00000.log", "stacks/rank00000.txt"):
        (run.path / file).write_text(f"line {ESCAPES} Error: x\n")
    return run


def bad(text):
    """Which forbidden characters a text holds."""
    return [mark for mark in FORBIDDEN if mark in text]


@pytest.mark.asyncio
async def test_no_screen_lets_an_escape_through(runs_root, tmp_path):
    runs = [hostile_run(runs_root, name) for name in ("one", f"two{ESCAPES}")]
    user = tmp_path / "config" / "tgsbench" / "presets"
    user.mkdir(parents=True)
    quoted = json.dumps(ESCAPES)
    (user / "mine.toml").write_text(f'extends = "tiny_cpu"\ndescription = {quoted}\nnotes = [{quoted}]\n')
    (user / "broken.toml").write_text(f"{quoted} = 1\n")
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(200, 60), notifications=True) as pilot:
        await shows(pilot, "presets,")
        for word in ("mine", "broken"):
            await pilot.press("slash", *word, "enter")
            await shows(pilot, "1 of")
            assert not bad(text_of(app))
            await pilot.press("slash", "escape")
        await pilot.press("2")
        await shows(pilot, "2 of 2 runs", "two\\u001b")
        assert not bad(text_of(app))
        for run in runs:
            app.open_session(session.follow(run))
            await until(pilot, lambda: app.session.is_over)
            for pane in "cruoang":
                await pilot.press(pane)
                await pilot.pause()
                assert not bad(text_of(app)), pane
        app.open_profile(runs[0])
        await pilot.pause(0.3)
        for pane in "sckfg":
            await pilot.press(pane)
            await pilot.pause()
        app.push_screen(CompareScreen([comparison_row(run) for run in runs]))
        await pilot.pause(0.3)
        assert not bad(text_of(app))
        assert "owned" in text_of(app)


COMMANDS = [
    ["runs"], ["runs", "--json"], ["show", "one"], ["show", "one", "--json"], ["show", "rebuilt"],
    ["compare", "one", "rebuilt"], ["compare", "one", "rebuilt", "--json"], ["report", "one", "rebuilt"],
    ["report", "one", "--csv"], ["report", "one", "--json"], ["profile", "one"], ["presets", "show", "mine"],
    ["presets"], ["presets", "validate", "broken.toml"], ["compare", "one", "foreign:row"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_lets_an_escape_through(runs_root, tmp_path, monkeypatch, command):
    hostile_run(runs_root, "one")
    hostile_run(runs_root, "rebuilt", with_result=False)
    (runs_root / "foreign").mkdir()
    row = filled(imported.ImportedRow, keep={"schema_version": 1})
    (runs_root / "foreign" / "row.json").write_text(json.dumps(row))
    user = catalog.config_dir() / "presets"
    user.mkdir(parents=True, exist_ok=True)
    quoted = json.dumps(ESCAPES)
    (user / "mine.toml").write_text(f'extends = "tiny_cpu"\ndescription = {quoted}\nnotes = [{quoted}]\n')
    (tmp_path / "broken.toml").write_text(f"{quoted} = 1\n")
    monkeypatch.setenv("TGSBENCH_RUNS", str(runs_root))
    done = CliRunner().invoke(cli, command)
    said = done.output + str(getattr(done.exception, "msg", ""))
    assert not isinstance(done.exception, AssertionError | TypeError | ValueError | KeyError), done.exception
    assert not bad(said)
    if command[0] in ("runs", "show"):
        forged = {line.split()[1].rstrip(";") for line in said.splitlines() if line.startswith(FORGED)}
        assert forged <= TEXTS, "a name broke its line"


def test_no_page_lets_an_escape_through(runs_root, tmp_path, monkeypatch):
    hostile_run(runs_root, "one", status="ok")
    monkeypatch.setenv("TGSBENCH_RUNS", str(runs_root))
    page = tmp_path / "page.html"
    done = CliRunner().invoke(cli, ["report", "one", "--html", str(page)])
    assert done.exit_code == 0, done.exception
    assert "owned" in page.read_text()
    assert not bad(page.read_text())
    assert "\x1b" not in page.read_text()
