"""A seeded few inputs for every reader; `make fuzz` feeds 10^5 to each."""

from __future__ import annotations

import json

import pytest

from tests.fuzz.__main__ import inputs_of, one
from tests.fuzz.readers import DATA, READERS
from tgsbench.errors import TgsError

FEW = 25


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_refuses(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for index in range(FEW):
        one(name, inputs_of(name, 1, index), tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_what_is_meant_is_read(name, tmp_path, monkeypatch):
    """Samples that a reader refuses would make a search of refusals."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    ends = [one(name, data, tmp_path) for data in READERS[name].samples()]
    assert "read" in ends


RUN = READERS["run_json"].samples()[0]
TRIAL = READERS["tune_journal"].samples()[0].splitlines()[1]
FOUND = {
    "a world of no rank": ("run_json", RUN.replace(b'"world_size": 2', b'"world_size": 0')),
    "a journal's line with a TGS below 0": ("tune_journal", TRIAL.replace(b"100.0", b"-100.0")),
    "a journal's TGS beyond any device": ("tune_journal", TRIAL.replace(b"100.0", b"1.7e308")),
    "a journal's time beyond any clock": ("tune_journal", TRIAL.replace(b"9.0", b"1.7e308")),
    "a template nested by thousands": ("chat_template", b"{{ " + b"[" * 5000),
    "a template of which Jinja makes no Python": ("chat_template", b"{{ messages[:, 9] }}"),
    "splits that are a number": ("data_folder", b'{"splits": 3}'),
    "splits that are a table": ("data_folder", b'{"splits": {"a": 1}}'),
    "a split that is the folder itself": ("data_folder", b'{"splits": ["."]}'),
    "a tokenizer whose only id is below 0": (
        "tokenizer",
        b'[{"added_tokens": [{"id": -9223372036854775808}], "model": 1e9}, {}]',
    ),
    "data files that are lists": ("data_folder", b'{"_data_files": [["x"]]}'),
    "a file name of thousands of letters": (
        "data_folder",
        b'{"_data_files": [{"filename": "' + b"x" * 5000 + b'"}]}',
    ),
}
for _family, _key in (
    ("gemma3_1b", "sliding_window_pattern"),
    ("qwen3_next_80b_a3b", "full_attention_interval"),
    ("qwen3_8b", "max_window_layers"),
    ("deepseek_v3", "n_shared_experts"),
    ("llama2_7b", "num_hidden_layers"),
):
    for _value in (10**12, 1e300, "x", []):
        _config = {**json.loads((DATA / "configs" / f"{_family}.json").read_bytes()), _key: _value}
        FOUND[f"{_key} of {_value!r}"] = ("config_json", json.dumps(_config).encode())
"""What long searches found, each with the reader that fell over it."""


@pytest.mark.parametrize("case", FOUND)
def test_what_a_long_search_found_is_refused(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, data = FOUND[case]
    if name == "tune_journal":
        data = READERS[name].samples()[0].splitlines()[0] + b"\n" + data + b"\n"
    assert one(name, data, tmp_path) == "refused"


DEEP = b"[" * 100_000
DIGITS = b"9" * 5000
INTERNAL = {
    "a config.json": ("config_json", DEEP),
    "a row of data": ("data_lines", DEEP),
    "an array of data": ("data_array", DEEP),
    "a journal": ("tune_journal", b'{"x":' + DEEP + b"\n"),
    "run.json": ("run_json", b'{"x":' + DEEP),
    "an imported row": ("stored_row", b'{"x":' + DEEP),
    "a preset": ("preset", b'extends = "tiny_cpu"\nmeasure.steps = ' + DIGITS),
    "a grid": ("grid", b'preset = "tiny_cpu"\ngrid = { sp = [' + DIGITS + b"] }"),
}


@pytest.mark.parametrize("case", INTERNAL)
def test_a_refusal_speaks_of_the_file_and_not_of_python(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    name, data = INTERNAL[case]
    with pytest.raises(TgsError) as refused:
        READERS[name].read(tmp_path, data)
    assert "nested too deeply" in refused.value.msg or "thousands of digits" in refused.value.msg


def test_a_frame_at_a_line_of_thousands_of_digits_is_passed_over(tmp_path):
    data = READERS["stacks"].samples()[0].replace(b"line 40", b"line " + b"4" * 5000)
    assert one("stacks", data, tmp_path) == "read"


def test_escapes_of_a_journal_reach_nobody(tmp_path):
    from tgsbench.tune.journal import Asked, Journal

    asked, trial = READERS["tune_journal"].samples()[0].splitlines()[:2]
    path = tmp_path / "tune" / "x.jsonl"
    path.parent.mkdir()
    path.write_bytes(asked + b"\n" + trial.replace(b'"k0"', b'"k\\u001b[2J"') + b"\n")
    (outcome,) = Journal(tmp_path, "x").open(Asked(base="tiny_cpu", assignments=["measure.steps=6"]))
    assert "\x1b" not in outcome.key
