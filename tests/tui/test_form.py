"""The form: model and data, what is wrong in red and in the form's own words, the focused line."""

import json
import re

import pytest

from tests.tui.conftest import NUM_PRESETS, shows, text_of, until
from tests.unit.family_shapes import CONFIGS
from tgsbench.errors import TgsError
from tgsbench.presets import catalog, list_presets, resolve
from tgsbench.tui.contrast import contrast
from tgsbench.tui.screens.field_form import problems_of
from tgsbench.tui.screens.form import entries

pytestmark = pytest.mark.asyncio
INTERNALS = re.compile(r"Expected|msgspec|Struct|`\w+`|\b(int|str|float|bool|NoneType|dict)\b|<class")


async def opened(pilot, name):
    pilot.app.edit_preset(name)
    await shows(pilot, f"Edit {name}")


async def type_into(pilot, key, text):
    pilot.app.screen.query_one(f"#set-{key}").focus()
    await pilot.press("ctrl+u", *text)


async def test_another_model_and_a_file_of_ones_own_are_chosen_in_the_form(app, tmp_path):
    data = tmp_path / "mine.json"
    data.write_text(json.dumps([{"instruction": "a", "input": "", "output": "b"}]))
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot, "llama2_7b_8k")
        form = app.screen
        form.query_one("#set-model").value = "llama3_1b"
        form.query_one("#set-workload-corpus").value = "file"
        form.query_one("#set-workload-file").value = str(data)
        await shows(pilot, "--set model=llama3_1b", "--set workload.corpus=file")
        preset = form._resolved()
    assert preset.model == catalog.load_model("llama3_1b")
    assert (preset.workload.corpus, preset.workload.file) == ("file", str(data))


async def test_data_of_ones_own_are_looked_at_beside_the_form(app, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "mine.jsonl"
    data.write_text('{"text": "a few words"}\n' * 3)
    async with app.run_test(size=(120, 45)) as pilot:
        await opened(pilot, "tiny_cpu")
        form = app.screen
        form.query_one("#set-workload-corpus").value = "file"
        form.query_one("#set-workload-file").value = str(data)
        await shows(pilot, "✗ data: corpus file holds")
        form.query_one("#set-workload-seq-len").value = "12"
        await shows(pilot, "✓ data: 3 documents of")


async def test_a_config_json_and_a_tokenizer_of_ones_own_are_typed_into_the_form(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text((CONFIGS / "qwen3_0_6b.json").read_text())
    async with app.run_test(size=(120, 45)) as pilot:
        await opened(pilot, "llama2_7b_8k")
        form = app.screen
        form.query_one("#set-config-json").value = "./config.json"
        form.query_one("#set-workload-tokenizer").value = "some/tokenizer"
        await until(pilot, lambda: "workload.tokenizer=some/tokenizer" in form.assignments)
        preset = form._resolved()
        assert f"model={tmp_path / 'config.json'}" in form.assignments
        form.query_one("#set-config-json").value = "./nothing.json"
        await until(pilot, lambda: "there is no such configuration" in form._problem)
    assert (preset.model.family, preset.model.num_layers) == ("qwen3", 28)
    assert preset.workload.tokenizer == "some/tokenizer"


async def test_every_preset_opens_with_its_own_values_and_nothing_changed():
    for name in list_presets():
        preset = resolve(name).preset
        for field in entries(preset):
            assert not field.choices or field.value in field.choices, (name, field.key)
        model = next(field.value for field in entries(preset) if field.key == "model")
        if model in catalog.files("presets", "models"):
            assert catalog.load_model(model) == preset.model


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("measure-steps", "abc", "steps: 'abc' is not a whole number"),
        ("measure-steps", "1.5", "steps: 1.5 is not a whole number"),
        ("measure-warmup", "true", "warm-up: true is not a whole number"),
        ("workload-seq-len", "x", "length: 'x' is not a length; write tokens such as 8192, 8k, 128k or 1M"),
        ("hardware-num-gpus", "many", "GPUs: 'many' is not a whole number"),
    ],
)
async def test_a_wrong_value_is_named_in_the_forms_words_and_its_line_is_red(app, key, text, said):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot, "tiny_cpu")
        await type_into(pilot, key, text)
        await shows(pilot, said)
        form = app.screen
        assert not INTERNALS.search(form._problem), form._problem
        assert [widget.id for widget in form.query(".-wrong")] == [f"set-{key}"]
        line = form.query_one(f"#set-{key}")
        red = line.styles.color
        assert red.r > red.g and red.r > red.b, "it is red"
        assert contrast(*(line.colors[3], line.colors[2])) > 1


async def test_problems_of_other_keys_mark_the_line_where_they_were_typed(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot, "tiny_cpu")
        app.screen.query_one("#others").focus()
        await pilot.press(*"training.lr=fast")
        await shows(pilot, "training.lr: 'fast' is not a number")
        assert [widget.id for widget in app.screen.query(".-wrong")] == ["others"]


async def test_a_preset_that_does_not_fit_says_so_in_red(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot, "llama2_7b_8k")
        await shows(pilot, "✗ does not fit this machine")
        assert app.screen.query_one("#form-fit").has_class("-wrong")
        assert "✓ fits" not in text_of(app)


async def test_the_focused_line_looks_different_from_all_others(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot, "tiny_cpu")
        app.screen.query_one("#set-measure-steps").focus()
        await pilot.pause()
        lines = list(app.screen.query(".entry"))
        grounds = [line.styles.background for line in lines]
        await until(pilot, lambda: len({line.styles.background for line in lines}) == 2, grounds)
        [marked] = [line for line in lines if line.has_pseudo_class("focus-within")]
        assert [line for line in lines if line.styles.background == marked.styles.background] == [marked]


async def test_a_search_puts_the_cursor_on_the_first_hit(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"{NUM_PRESETS} of {NUM_PRESETS}")
        await pilot.press("G", "slash", *"llama3", "enter")
        await shows(pilot, "llama3_1b_8k: ")
        assert app.screen.selected.name == "llama3_1b_8k"


@pytest.mark.parametrize(
    "sets",
    [["measure.steps=[1]"], ["engine=3"], ["notes=5"], ["notes=[1]"], ["model.num_layers=x"], ["profile=5"],
     ["workload.document_mask=perhaps"], ["training.lr=null"], ["measure.nothing=1"]],
)  # fmt: skip
async def test_no_refusal_of_a_preset_names_types_of_the_program(sets):
    with pytest.raises(TgsError) as refused:
        resolve("tiny_cpu", sets)
    problems = problems_of(refused.value, entries(resolve("tiny_cpu").preset))
    assert problems
    assert not any(INTERNALS.search(text) for _, text in problems), problems
