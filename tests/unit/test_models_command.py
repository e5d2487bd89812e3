"""`tgsbench models`: what is known, where it came from, and how a config.json becomes one's own shape."""

from __future__ import annotations

import json
import tomllib

import pytest
from click.testing import CliRunner

from tests.unit.family_shapes import CONFIGS, NAMES, read
from tgsbench import presets
from tgsbench.cli.main import cli
from tgsbench.errors import TgsError
from tgsbench.presets import config_file


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "tgsbench" / "presets" / "models"


def run(*words: str):
    return CliRunner().invoke(cli, ["models", *words])


def test_every_shape_stands_with_its_parameters_and_costs():
    rows = {row["key"]: row for row in json.loads(run("--json").output)}
    assert {"qwen3_8b", "gpt_oss_20b", "deepseek_v3", "llama2_7b"} <= rows.keys()
    qwen = rows["qwen3_8b"]
    assert (qwen["parameters"], qwen["active_parameters"]) == (8_190_735_360, 8_190_735_360)
    assert qwen["kv_bytes_per_token"] == 2 * 2 * 36 * 8 * 128
    assert qwen["flops_per_token"]["8192"] == pytest.approx(52.7e9, rel=1e-3)
    assert rows["deepseek_v3"]["kv_bytes_per_token"] == 2 * 61 * (512 + 64)
    assert "not trained" not in run().output.splitlines()[1]
    assert rows["qwen3_next_80b_a3b"]["untrained"]


def test_a_config_is_shown_with_the_origin_of_each_value():
    output = run("show", str(CONFIGS / "gpt_oss_20b.json")).output
    line = next(line for line in output.splitlines() if line.startswith("experts.used"))
    assert line.split("#")[0].strip() == "experts.used = 4"
    assert line.endswith("gpt_oss_20b.json: num_experts_per_tok")
    assert "# quantization_config: the weights are stored so" in output


def test_an_added_config_is_a_model_like_any_other(own_folder):
    assert run("add", str(CONFIGS / "kimi_k2.json"), "--name", "kimi").exit_code == 0
    written = tomllib.loads((own_folder / "kimi.toml").read_text())
    assert written["experts"]["num"] == 384
    shape = presets.resolve("llama3_8b_8k", ["model=kimi"]).preset.model
    assert shape.latent == read("kimi_k2").shape.latent
    again = run("add", str(CONFIGS / "kimi_k2.json"), "--name", "kimi")
    assert isinstance(again.exception, TgsError) and "exists already" in again.exception.msg
    assert isinstance(run("add", str(CONFIGS / "kimi_k2.json"), "--name", "../kimi").exception, TgsError)


@pytest.mark.parametrize("text", ["config.json", "./config.json", ".", "../qwen3-0.6b"])
def test_a_config_is_called_as_its_folder_wherever_it_is_named_from(tmp_path, monkeypatch, text):
    (tmp_path / "qwen3-0.6b").mkdir()
    monkeypatch.chdir(tmp_path / "qwen3-0.6b")
    (tmp_path / "qwen3-0.6b" / "config.json").write_text((CONFIGS / "qwen3_0_6b.json").read_text())
    assert presets.find_model(text).name == config_file.short_name(text) == "qwen3-0.6b"
    assert config_file.short_name("qwen3_8b") == "qwen3_8b"
    assert config_file.short_name("Qwen/Qwen3-8B") == "Qwen3-8B"


@pytest.mark.parametrize("name", NAMES)
def test_a_shape_survives_being_written_down(own_folder, name):
    assert run("add", str(CONFIGS / f"{name}.json"), "--name", "mine").exit_code == 0
    kept, given = presets.load_model("mine"), read(name).shape
    assert kept.experts == given.experts
    assert (kept.layer_pattern, kept.window, kept.latent, kept.linear) == (
        given.layer_pattern, given.window, given.latent, given.linear,
    )  # fmt: skip
