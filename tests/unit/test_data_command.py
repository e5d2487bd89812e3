"""`tgsbench data stats`: lengths, packs, a histogram that a run can draw from, errors with exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tgsbench.cli import data as command
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch.rehearse import rehearsal
from tgsbench.presets.resolve import resolve
from tgsbench.workload import stats
from tgsbench.workload.histogram import read_histogram


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": "word " * n}) + "\n" for n in range(1, 101)))
    return path


def asked(*words: str):
    return CliRunner().invoke(command.data, ["stats", *words])


def test_lengths_and_packs_are_counted_as_a_run_counts_them(texts, tmp_path):
    done = asked(str(texts), "--vocab-size", "300", "--seq-len", "512", "--seq-len", "64", "--json",
                 "--histogram", str(tmp_path / "h.csv"))  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    histogram = read_histogram(tmp_path / "h.csv")
    lengths = np.repeat(histogram.lengths, histogram.counts)
    assert found["num_documents"] == len(lengths) == 100
    assert found["num_tokens"] == lengths.sum() and found["max"] == lengths.max()
    assert (found["p50"], found["p95"]) == (lengths[49], lengths[94])
    packs, short = found["packs"]
    assert packs["num_packs"] == lengths.sum() // 512 and packs["tokens_lost"] == lengths.sum() % 512
    assert packs["num_long"] == 0 < short["num_long"] == (lengths > 64).sum()
    assert short["attended_len"] < packs["attended_len"] <= lengths.max()
    assert "JSON lines of format text" in found["shown"]


def test_a_table_for_people_says_what_the_lengths_mean(texts):
    said = asked(str(texts), "--vocab-size", "300").stdout
    assert "documents   100 of" in said and "attended" in said
    assert "hold 95 % of the documents" in said and "workload.document_mask=true" in said


def test_sp_is_what_leaves_a_gpu_16k_tokens():
    row = stats.pack_stats(np.array([100_000] * 20), 1 << 20)
    assert (row.sp, row.num_packs, row.num_long) == (64, 1, 0)
    assert row.share_padded_unpacked == pytest.approx(1 - 100_000 / (1 << 20))


@pytest.mark.parametrize("words", [["nowhere.jsonl"], ["alpaca"], ["texts.jsonl", "--seq-len", "x"]])
def test_what_is_no_data_is_told(texts, monkeypatch, words):
    monkeypatch.chdir(texts.parent)
    error = asked(*words).exception
    assert isinstance(error, TgsError)
    assert error.exit_code == (ExitCode.USAGE if "--seq-len" in words else ExitCode.BAD_DATA)


def test_a_rehearsal_takes_no_tokenizer_of_the_real_model(texts, tmp_path):
    sets = [f"workload.corpus={texts}", f"workload.tokenizer={tmp_path}"]
    small = rehearsal(resolve("llama3_8b_8k", sets).preset, 2)
    assert small.workload.corpus == str(texts) and small.workload.tokenizer == ""
