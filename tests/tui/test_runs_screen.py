"""The list of runs: order, tags, deletion, details, and looking again."""

import shutil

import pytest

from tests.tui.conftest import shows, text_of, until
from tgsbench.results import index
from tgsbench.store.run_dir import RunDir
from tgsbench.tui import run_rows
from tgsbench.tui.app import TgsApp
from tgsbench.tui.screens import runs as runs_screen
from tgsbench.tui.screens.dialogs import Ask, Choice, Reading

pytestmark = pytest.mark.asyncio


@pytest.fixture
def three(add_run):
    add_run("20260101T100000-a-aa01", preset="zebra", created_unix=3000.0, tgs={"median": 10.0, "n": 6})
    add_run("20260101T100001-b-bb02", preset="ant", created_unix=2000.0, tgs={"median": 30.0, "n": 6})
    add_run("20260101T100002-c-cc03", preset="bee", created_unix=1000.0, tgs={"median": None, "n": 0},
            status="oom", failure={"kind": "oom", "reason": "CUDA out of memory"})  # fmt: skip


def listed(app):
    """Names of the presets of the runs, from the top."""
    lines = text_of(app).splitlines()
    words = ("zebra", "ant", "bee")
    return [next(word for word in words if word in line) for line in lines if "8k" in line and any(
        word in line for word in words)]  # fmt: skip


async def opened(pilot):
    await pilot.press("2")
    await shows(pilot, "newest first: 3 of 3 runs")


async def test_a_key_goes_through_the_orders(app, three):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        rows = app.screen._rows
        newest = [row.run.run_id for row in rows]
        await pilot.press("O")
        await shows(pilot, "fastest first")
        assert listed(app) == ["ant", "zebra", "bee"]
        await pilot.press("O")
        await shows(pilot, "by preset")
        assert listed(app) == ["ant", "bee", "zebra"]
        await pilot.press("O")
        await shows(pilot, "by status")
        await pilot.press("O")
        await shows(pilot, "newest first")
        assert [row.run.run_id for row in app.screen._rows] == newest
        await until(pilot, lambda: app.screen.query_one("#run-table").cursor_row == 0)


async def test_among_equals_the_newest_run_comes_first():
    made = [index.Summary(run_id=f"r{at}", status="ok", tgs=1.0, created_unix=float(at)) for at in range(3)]
    rows = [run_rows.run_row(run) for run in made]
    for order in run_rows.ORDERS:
        assert [row.run.run_id for row in run_rows.ordered(rows, order)] == ["r2", "r1", "r0"], order


async def test_a_search_puts_the_cursor_on_the_first_hit(app, three):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("O")  # fastest first
        await pilot.press("G", "slash", *"20260101", "enter")
        await shows(pilot, "3 of 3 runs")
        assert app.screen.selected.preset == app.screen._rows[0].run.preset


async def test_tags_are_written_shown_searched_and_taken_away(app, three, runs_root):
    async with app.run_test(size=(200, 40)) as pilot:
        await opened(pilot)
        name = app.screen.selected.run_id
        await pilot.press("T")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press(*"base good", "enter")
        await until(pilot, lambda: RunDir(runs_root / name).manifest().tags[-2:] == ["base", "good"])
        await until(pilot, lambda: app.screen.selected and "good" in app.screen.selected.tags)
        await pilot.press("slash", *"good", "enter")
        await shows(pilot, "1 of 3 runs")
        await pilot.press("T")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press("ctrl+u", "enter")
        await until(pilot, lambda: RunDir(runs_root / name).manifest().tags == [])


async def test_what_is_no_tag_is_refused_and_nothing_is_written(app, three, runs_root):
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await opened(pilot)
        before = RunDir(runs_root / app.screen.selected.run_id).manifest().tags
        await pilot.press("T")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press("end", *"a/b", "enter")
        await until(pilot, lambda: any("may hold letters" in note.message for note in app._notifications))
        assert RunDir(runs_root / app.screen.selected.run_id).manifest().tags == before


async def test_a_run_is_deleted_only_once_that_was_confirmed(app, three, runs_root):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        gone = runs_root / app.screen.selected.run_id
        await pilot.press("d")
        await shows(pilot, f"Delete {gone.name}?", "cannot be brought back")
        await pilot.press("enter")  # the first choice keeps it
        await until(pilot, lambda: not isinstance(app.screen, Choice))
        assert gone.exists()
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Choice))
        assert gone.exists()
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await pilot.press("j", "enter")
        await shows(pilot, "2 of 2 runs")
    assert not gone.exists()
    assert len(list(runs_root.glob("2026*"))) == 2


async def test_a_run_that_goes_on_is_not_deleted(app, three, runs_root, monkeypatch):
    monkeypatch.setattr(RunDir, "is_alive", lambda self: True)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await opened(pilot)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await pilot.press("j", "enter")
        await until(pilot, lambda: any("still running" in note.message for note in app._notifications))
    assert len(list(runs_root.glob("2026*"))) == 3


async def test_the_open_run_can_be_deleted_and_nothing_holds_on_to_it(app, three):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("enter")
        await shows(pilot, "[3 Live]", "n = ")
        await pilot.press("2")
        await shows(pilot, "3 of 3 runs")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Choice))
        await pilot.press("j", "enter")
        await shows(pilot, "2 of 2 runs")
        assert app.session is None
        await pilot.press("3")
        await shows(pilot, "No run is open")


async def test_details_say_what_the_list_has_no_room_for(app, three, runs_root):
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("slash", *"oom", "enter", "i")
        await until(pilot, lambda: isinstance(app.screen, Reading))
        await shows(pilot, "Details", "CUDA out of memory", "tags")
        await pilot.press("G")
        await shows(pilot, "checkpointing", "folder")


async def test_details_say_what_a_run_changed_of_its_preset_and_what_disturbed_it(app, add_run):
    add_run("one", changed=["training.checkpointing=full"], warnings=["other processes used 1.7 of 2 cores"])
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("2")
        await shows(pilot, "1 of 1 runs")
        await pilot.press("i")
        await shows(pilot, "Details", "training.checkpointing=full")
        await pilot.press("G")
        await shows(pilot, "other processes used 1.7 of 2 cores")


async def test_details_of_a_damaged_run_say_what_is_wrong(app, three, runs_root):
    (runs_root / "20260101T100000-a-aa01" / "result.json").write_text("{")
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("slash", *"damaged", "enter")
        await shows(pilot, "1 of 3 runs")
        await pilot.press("i")
        await shows(pilot, "Details", "result.json")


async def test_the_list_looks_again_when_a_run_comes_or_goes(app, three, add_run, monkeypatch):
    monkeypatch.setattr(runs_screen, "LOOK_PERIOD_S", 0.05)
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        new = add_run("new-dd04")
        await shows(pilot, "4 of 4 runs")
        shutil.rmtree(new.path)
        await shows(pilot, "3 of 3 runs")


async def test_a_list_at_rest_reads_nothing(app, three, monkeypatch):
    monkeypatch.setattr(runs_screen, "LOOK_PERIOD_S", 0.02)
    reads = []
    listing = index.iter_summaries
    monkeypatch.setattr(index, "iter_summaries", lambda *args: reads.append(1) or listing(*args))
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        looked, before = [], len(reads)
        stamp = app.screen._stamp
        monkeypatch.setattr(app.screen, "_stamp", lambda: looked.append(1) or stamp())
        await until(pilot, lambda: len(looked) > 10)
        assert len(reads) == before


async def test_an_ended_run_is_shown_as_ended(runs_root, add_run, monkeypatch):
    monkeypatch.setattr(runs_screen, "LOOK_PERIOD_S", 0.05)
    run = going = add_run("going-aa01")
    result = (run.path / "result.json").read_bytes()
    (run.path / "result.json").unlink()
    monkeypatch.setattr("tgsbench.results.results.is_running", lambda run: run.path == going.path)
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("2")
        await shows(pilot, "▶ running")
        (run.path / "result.json").write_bytes(result)
        await shows(pilot, "✓ ok")
