"""The forecast of a preset, the settings a search finds, and saving one of them by one key."""

import pytest

from tests.tui.conftest import NUM_PRESETS, shows, until
from tgsbench import api
from tgsbench.planner.search import search
from tgsbench.presets import resolve
from tgsbench.report.plan import manner
from tgsbench.tui import forecast_rows
from tgsbench.tui.screens.forecast import ForecastScreen

pytestmark = pytest.mark.asyncio
FITTING = "fit, fastest first"


async def on_preset(pilot, name):
    await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
    await pilot.press("slash", *name, "enter", "f")
    await until(pilot, lambda: isinstance(pilot.app.screen, ForecastScreen))


async def test_the_forecast_is_that_of_the_command_line_and_the_search_too(app):
    preset = resolve("llama2_7b_128k").preset
    plan, found = api.forecast(preset), search(preset, api.planned_machine(preset))
    async with app.run_test(size=(120, 40)) as pilot:
        await on_preset(pilot, "llama2_7b_128k")
        screen = await shows(
            pilot, "verdict", f"fits: {plan.memory.total_gib:.2f} GiB", f"{len(found.candidates):,} {FITTING}"
        )
        assert f"{plan.tgs.estimate:.1f} (" in screen
        best = forecast_rows.rows(found, plan)[0][1]
        assert all(str(cell).strip() in screen for cell in best)


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_one_key_saves_the_chosen_setting_as_a_preset(app, tmp_path, size):
    async with app.run_test(size=size) as pilot:
        await on_preset(pilot, "llama2_7b_128k")
        await shows(pilot, FITTING)
        await pilot.press("j")
        one = app.screen.selected
        await shows(pilot, "--set", "--preset llama2_7b_128k", manner(one))
        await pilot.press("ctrl+s")
        folder = tmp_path / "config" / "tgsbench" / "presets"
        await until(pilot, lambda: len(list(folder.glob("*.toml"))) == 1)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: len(list(folder.glob("*.toml"))) == 2, "the same again has another name")
        await pilot.press("escape")
        await shows(pilot, f"of {NUM_PRESETS + 2} presets", "• 2 your own")
    [first, second] = sorted(path.stem for path in folder.glob("*.toml"))
    assert second == f"{first}_2"
    saved = resolve(first).preset
    assert saved == resolve("llama2_7b_128k", [*one.change, f"name={first}"]).preset
    assert api.forecast(saved).tgs.estimate == pytest.approx(one.tgs)


async def test_a_preset_without_constants_says_why_nothing_is_searched(app):
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await on_preset(pilot, "tiny_cpu")
        await shows(pilot, "no search: no constants are known for cpu", "try: tgsbench plan --calibrate")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: any("no setting" in note.message for note in app._notifications))


async def test_the_form_forecasts_what_is_edited(app):
    async with app.run_test(size=(120, 40)) as pilot:
        app.edit_preset("llama2_7b_128k")
        await shows(pilot, "Edit llama2_7b_128k")
        app.screen.query_one("#set-workload-seq-len").focus()
        await pilot.press("ctrl+u", *"256k", "f6")
        await shows(pilot, "as edited", FITTING, "--set workload.seq_len=256k")
        await pilot.press("escape")
        await shows(pilot, "Edit llama2_7b_128k")


async def test_leaving_while_it_is_searched_is_no_failure(app):
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await on_preset(pilot, "llama2_70b_1M")
        await pilot.press("escape")
        await app.workers.wait_for_complete()
        assert not any("bug" in note.title for note in app._notifications)


async def test_settings_of_a_search_replace_those_that_were_edited():
    edited = ["parallel.sp=4", "measure.steps=5"]
    assert forecast_rows.merged(edited, ["parallel.sp=8"]) == ["measure.steps=5", "parallel.sp=8"]
