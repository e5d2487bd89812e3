"""Every flow around a run that is open: figures, panes, logs, replay, profile."""

import json
import shutil
import sys

import msgspec
import pytest
from textual import events

from benchmarks.simulate import Scenario, write_events
from tests.tui.conftest import line_of, shows, until
from tests.unit.stored import a_forecast
from tgsbench.live import session
from tgsbench.schema.forecast import TgsRange
from tgsbench.tui.app import TgsApp
from tgsbench.tui.widgets.log_view import LogView
from tgsbench.tui.widgets.search import Search

pytestmark = pytest.mark.asyncio


async def test_no_letter_of_a_log_filter_is_lost_however_fast_it_is_typed(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("o")
        await shows(pilot, "log of rank [0]")
        for letter in "/s/q_c":
            opened.post_message(events.Key("slash" if letter == "/" else letter, letter))
        await until(pilot, lambda: opened.screen.query_one("#log-filter", Search).value == "s/q_c")


async def test_a_log_without_a_filter_line_keeps_the_keys(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("a", "slash", "c")
        await shows(pilot, "[c Charts]")


async def test_live_panes_by_keys(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24", "95 % 850.0 to 997.9, n = 24", "not comparable")
        await pilot.press("w")
        await shows(pilot, "x1.18", "over the median rank")
        await pilot.press("u")
        await shows(pilot, "1095 MHz")
        await pilot.press("a")
        await shows(pilot, "rank 5 throttled: thermal")
        await pilot.press("left_square_bracket")
        await shows(pilot, "[o Logs]", "simulated log of rank 0")
        await pilot.press("right_square_bracket", "right_square_bracket")
        await shows(pilot, "[c Charts]")


async def test_another_run_opens_on_the_charts_and_counts_its_notes(opened, add_run):
    add_run("other-aa01")
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24", "a Notes (2)")
        await pilot.press("o")
        await shows(pilot, "[o Logs]")
        await pilot.press("2")
        await shows(pilot, "1 of 1 runs")
        await pilot.press("enter")
        await shows(pilot, "other-aa01", "[c Charts]")
        assert opened.focused.id == "chart-tgs"


async def test_convention_rank_and_metric_turn(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "175.2 xtuner")
        await pilot.press("t")
        await shows(pilot, "131.6 model")
        await pilot.press("full_stop")
        await shows(pilot, "-- rank 1")
        await pilot.press("comma", "comma")
        await shows(pilot, "-- rank 7")
        await pilot.press("m")
        await shows(pilot, "data time by rank")


async def test_the_chart_cursor_reads_off_values(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, ">TGS  step 29")
        await pilot.press("g")
        await shows(pilot, ">TGS  step 0")
        await pilot.press("l", "l")
        await shows(pilot, ">TGS  step 2")
        await pilot.press("G")
        await shows(pilot, ">TGS  step 29")


async def test_the_first_error_in_any_log_is_found(runs_root, add_run):
    run = add_run("broken")
    (run.log_dir / "rank00005.log").write_text("fine\nfine\nRuntimeError: it broke\nafter\n")
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("E")
        await shows(pilot, "log of rank  0  1  2  3  4 [5] 6  7", "3!RuntimeError: it broke")
        log = app.screen.query_one("#log", LogView)
        assert log.cursor_line == "RuntimeError: it broke"
        await pilot.press("slash", *"fine", "enter")
        await shows(pilot, "2 lines with 'fine'")
        await pilot.press("E")
        await shows(pilot, "RuntimeError: it broke")
        assert log.cursor_line == "RuntimeError: it broke"
        assert not app.screen.query_one("#log-filter").display


async def test_a_log_whose_beginning_is_left_out_says_so(runs_root, add_run):
    run = add_run("long-log")
    (run.log_dir / "rank00000.log").write_text("RuntimeError: at the start\n" + "fine\n" * 30_000)
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("o")
        await shows(pilot, "its end alone")
        await pilot.press("E")
        said = "no error in any rank's log; only the end of 1 long log was searched"
        await until(pilot, lambda: said in [note.message for note in app._notifications])


async def test_a_click_on_a_rank_shows_its_log(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("o")
        line = await line_of(pilot, "log of rank [0]")
        await pilot.click("#log-line", offset=(line.index(" 6 ") + 1, 0))
        await shows(pilot, " 5 [6] 7 ", "simulated log of rank 6")


async def test_a_click_on_its_name_opens_a_pane(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        line = await line_of(pilot, "u GPUs")
        await pilot.click("#pane-line", offset=(line.index("u GPUs"), 0))
        await shows(pilot, "[u GPUs]", "1095 MHz")
        await pilot.press("4")
        line = await line_of(pilot, "K Kernels")
        await pilot.click("#profile-panes-line", offset=(line.index("K Kernels"), 0))
        await shows(pilot, "[K Kernels]")


async def test_the_log_filter_works_as_you_type_and_escape_lifts_it(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("o", "slash", *"packing")
        screen = await shows(pilot, "[data] packing", "1 lines with 'packing'")
        assert "process group" not in screen
        await pilot.press("escape")
        await shows(pilot, "process group")


async def test_question_mark_explains_the_focused_figure(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        opened.screen.query_one("#big").focus()
        await pilot.press("question_mark")
        await shows(pilot, "real tokens of all ranks / (GPUs", "measured steps n", "24")
        await pilot.press("escape")
        opened.screen.query_one("#tflops").focus()
        await pilot.press("question_mark")
        await shows(pilot, "xtuner convention", "FLOPs per token")


async def test_tab_reaches_every_figure(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        reached = set()
        for _ in range(20):
            await pilot.press("tab")
            reached.add(str(getattr(opened.focused, "figure", "")))
        figures = {"tgs", "tgs_ci", "tflops:xtuner", "step_s", "mem", "mfu", "eta", "loss", "verdict"}
        assert figures <= reached


async def test_a_verdict_that_is_cut_off_is_told_in_full(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        assert "published A100-SXM4-80GB" not in await shows(pilot, "n = 24", "GPU simulated")
        opened.screen.query_one("#verdict-line").focus()
        await shows(pilot, "> ≠ not comparable")
        await pilot.press("question_mark")
        await shows(pilot, "Verdict against the published row", "A100-SXM4-80GB")
        await pilot.press("G")
        await shows(pilot, "llamafactory")


async def test_alerts_that_are_cut_off_stand_in_the_notes(opened):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("a")
        await shows(pilot, "rank 5 (node00) is slow: 1.18× the median rank", "rank 5 throttled: thermal")


async def test_the_notes_tell_how_a_run_failed_and_what_to_try(runs_root, add_run):
    failure = {"kind": "oom", "reason": "CUDA out of memory", "rank": 7, "hint": "use sp 16"}
    failure["forecast"] = "the plan expected 61 GiB"
    failure["hint"] += ", or selective checkpointing: the attention output is kept, one recomputes the rest"
    run = add_run("failed", status="oom", failure=failure)
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "✗ oom")
        await pilot.press("a")
        await shows(pilot, "✗ oom (rank 7): CUDA out of memory", "try: use sp 16", "the rest")
        await shows(pilot, "the plan expected 61 GiB")


async def test_steps_to_come_include_the_profiled_ones(recording):
    view = session.follow(recording).view
    measure = view.plan.preset.measure
    assert view.plan.total_steps == measure.warmup + measure.steps + view.plan.num_profile_steps == 30
    assert view.plan.num_profile_steps > 0


async def test_replay_keys(runs_root, recording):
    app = TgsApp(runs_root=runs_root, opens=session.replay(recording, 60.0))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "REPLAY ▶ 60×")
        await pilot.press("space")
        await shows(pilot, "paused")
        await pilot.press("plus")
        await pilot.press("space")
        await shows(pilot, "▶ 120×")
        await pilot.press("minus", "minus")
        await shows(pilot, "▶ 30×")
        for _ in range(11):
            await pilot.press("L")
        await shows(pilot, "■ end", "step 30/30")
        await pilot.press("0")
        await shows(pilot, "▶ 30×")


async def test_profile_tables_ranks_and_copy(opened, copied):
    async with opened.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("p")
        await shows(pilot, "[S Shares]", "attention backward", "all-to-all")
        await pilot.press("right_square_bracket", "j")
        name = "flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel"
        await shows(pilot, f"{name}  (attention backward, 166.0 of", "312 TFLOPs)")
        await pilot.press("right_square_bracket")
        await shows(pilot, "of 300")
        await pilot.press("right_square_bracket")
        await shows(pilot, "SIMULATED")
        await pilot.press("full_stop")
        await shows(pilot, "rank 0")
        await pilot.press("y")
    assert '"shares"' in copied[0]


@pytest.mark.asyncio
async def test_the_live_view_shows_what_was_predicted_beside_what_is_measured(runs_root, add_run):
    run = add_run("forecast")
    manifest = json.loads((run.path / "run.json").read_text())
    kept = a_forecast(tgs=TgsRange(estimate=900.0, low=800.0, high=1000.0))
    manifest["prediction"] = msgspec.to_builtins(kept)
    (run.path / "run.json").write_text(json.dumps(manifest))
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(120, 40)) as pilot:
        text = await shows(pilot, "predicted 900.0 (800.0 to 1,000), measured 1.02×")
        assert "xtuner published 948.6 │ predicted" in text


SERVER = (
    "import sys, time; print('made 8 files', flush=True);"
    "print('open http://127.0.0.1:6123/#pytorch_profiler', file=sys.stderr, flush=True); time.sleep(600)"
)


@pytest.fixture
def traced(runs_root, add_run):
    run = add_run("traced")
    (run.path / "profile" / "rank00000.pt.trace.json.gz").write_bytes(b"")
    return TgsApp(runs_root=runs_root, opens=session.follow(run))


async def test_b_starts_tensorboard_shows_its_address_and_it_ends_with_the_ui(traced, monkeypatch):
    monkeypatch.setattr("tgsbench.tui.tensorboard.command", lambda run: [sys.executable, "-c", SERVER])
    async with traced.run_test(size=(80, 24)) as pilot:
        await pilot.press("4")
        await shows(pilot, "[S Shares]")
        await pilot.press("B")
        await shows(pilot, "TensorBoard: http://127.0.0.1:6123/#pytorch_profiler")
        server = traced.tensorboard
        assert server.is_alive
        await pilot.press("B")
        assert traced.tensorboard is server
    assert not server.is_alive


async def test_a_tensorboard_that_does_not_start_says_why(traced, monkeypatch):
    refusal = "import sys; sys.exit('error: no command called tensorboard')"
    monkeypatch.setattr("tgsbench.tui.tensorboard.command", lambda run: [sys.executable, "-c", refusal])
    async with traced.run_test(size=(120, 40)) as pilot:
        await pilot.press("4")
        await shows(pilot, "[S Shares]")
        await pilot.press("B")
        await shows(pilot, "TensorBoard did not start: no command called tensorboard")


async def test_long_log_lines_scroll_sideways_by_keys(runs_root, add_run):
    run = add_run("wordy")
    (run.log_dir / "rank00000.log").write_text("x" * 200 + " the end\n")
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("o")
        await shows(pilot, "xxxx")
        await pilot.press("l", "l", "l", "l")
        await shows(pilot, "the end")
        await pilot.press("h", "h", "h", "h")
        await shows(pilot, "1 xxxx")


async def test_a_supervisors_warning_names_no_rank(runs_root, add_run):
    run = add_run("warned")
    line = '{"type":"warn","code":"disturbed_cpu","msg":"busy","hint":"","v":1,"t":1,"rank":-2,"seq":0}'
    (run.events_dir / "node00001.jsonl").write_text(line + "\n")
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "n = 24")
        await pilot.press("a")
        await shows(pilot, "warning: supervisor of node 1: disturbed_cpu")


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_a_straggler_among_64_ranks_stands_out_without_colour(runs_root, add_run, size):
    run = add_run("many")
    scenario = Scenario(world=64, steps=12, straggler=37, gpu_period_s=0, heartbeat_s=0)
    shutil.rmtree(run.events_dir)
    write_events(run.path, scenario)
    manifest = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(manifest | {"world_size": 64}))
    app = TgsApp(runs_root=runs_root, opens=session.follow(run))
    async with app.run_test(size=size) as pilot:
        await shows(pilot, "rank 37 (node04) is slow: 1.18")
        await pilot.press("w")
        screen = await shows(pilot, "over the median rank:", "x")
        view = app.screen.query_one("#heat")
        rows = [view.render_line(y).text for y in range(2, 10)]
        marked = {row.index("x") for row in rows if "x" in row}
        assert len(marked) == 1, screen


async def test_the_heatmap_of_a_run_that_is_over_is_drawn_for_the_room_it_is_given_late(runs_root, add_run):
    """Its last paint may come before its layout: one cell was shown until a key was pressed."""
    app = TgsApp(runs_root=runs_root, opens=session.follow(add_run("over")))
    async with app.run_test(size=(200, 60)) as pilot:
        await shows(pilot, "n = 24", "over the median rank:")
        await app.workers.wait_for_complete()
        view = app.screen.query_one("#heat")
        for height, columns in ((12, 3), (15, 8)):
            view.styles.height, view.styles.width = height, 12 + columns
            await until(pilot, lambda room=(columns, height - 3): view.room == room)
            await pilot.pause()
            shown = (len(view._map.groups), len(view._map.rows))
            assert shown == (len(range(0, 8, -(-8 // columns))), height - 3)
