"""`tgsbench plan` as it is typed: what it answers, and what it says to what cannot be."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tgsbench.cli.plan import plan
from tgsbench.errors import ExitCode, TgsError

H100 = ("--gpu", "H100-SXM5-80GB")


def run(*words: str):
    return CliRunner().invoke(plan, list(words))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--preset llama2_7b_8k --gpu RTX4090", ExitCode.UNKNOWN_HARDWARE, "A100-SXM4-80GB"),
        ("--preset llama2_7b_8k --link nope", ExitCode.UNKNOWN_HARDWARE, "ndr400"),
        ("--preset llama2_7b_8k --num-gpus 0", ExitCode.BAD_PRESET, "1 to 1,000,000"),
        ("--preset llama2_7b_8k --set parallel.sp=3", ExitCode.BAD_PRESET, "nearest"),
        ("--preset llama2_7b_8k --seq-len 0", ExitCode.BAD_PRESET, "positive"),
        ("--preset llama2_7b_8k --seq-len 99999G", ExitCode.BAD_PRESET, "no plan"),
        ("--preset llama2_7b_8k --set training.micro_batch=99999999", ExitCode.BAD_PRESET, "no plan"),
        ("--preset llama2_7b_8k --set engine.kernel=flash3", ExitCode.UNKNOWN_HARDWARE, "flash2"),
        ("--preset llama2_7b_8k --scale 8,x", ExitCode.USAGE, "8,16,32"),
        ("--preset llama2_7b_8k --scale 0", ExitCode.USAGE, "1 to"),
        ("--preset llama2_7b_8k --scale 8 --search", ExitCode.USAGE, "leave out"),
        ("--preset llama2_7b_8k --chrome /nonexistent/x", ExitCode.STORE, "No such file"),
        ("--model llama2_7b --gpu A100-SXM4-80GB", ExitCode.USAGE, "--seq-len, --num-gpus"),
        ("--preset tiny_cpu --search", ExitCode.UNKNOWN_HARDWARE, "no constants"),
        ("--calibrate", ExitCode.USAGE, "name at least one run"),
        ("", ExitCode.USAGE, "--model NAME"),
    ],
)
def test_bad_input_says_what_is_wrong_and_what_would_do(words, code, said, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    done = run(*words.split())
    assert isinstance(done.exception, TgsError), done.output
    assert done.exception.exit_code == code
    assert said in done.exception.msg


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (2, "warning: a run would be refused (exit code 5): corpus few.jsonl holds"),
        (400, "data: 400 documents of "),
        (0, "few.jsonl: No such file"),
    ],
)
def test_beside_a_plan_stands_whether_the_data_would_do(rows, said, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "few.jsonl"
    if rows:
        data.write_text("".join(f'{{"text": "{n}"}}\n' for n in range(rows)))
    done = run("--preset", "tiny_cpu", "--set", f"workload.corpus={data}", "--json")
    assert said in done.stderr
    assert done.exit_code == 0 and json.loads(done.stdout)["preset"] == "tiny_cpu"


def test_every_constant_in_the_output_has_a_source():
    text = run("--preset", "llama2_70b_1M").output
    sources = text.split("source of its constant")[1]
    for constant in ("gemm", "attention_forward", "all_to_all_network", "stragglers", "elementwise"):
        assert constant in sources
    assert "benchmarks/data/calibration.csv" in sources
    assert max(len(line) for line in sources.splitlines()) <= 110


def test_the_longest_sequence_of_a_model_needs_no_length():
    found = json.loads(
        run("--max-seq-len", "--model", "llama2_7b", "--num-gpus", "8", *H100, "--json").output
    )
    assert found["seq_len"] > 2**20
    assert found["best"]["verdict"] in ("fits", "tight")


def test_a_search_on_fewer_gpus_than_a_presets_sp_says_settings_that_a_plan_takes():
    words = ("--preset", "llama3_8b_512k", "--num-gpus", "1")
    found = json.loads(run(*words, "--max-seq-len", "--json").output)
    sets = [word for change in found["best"]["change"] for word in ("--set", change)]
    followed = json.loads(run(*words, "--seq-len", str(found["seq_len"]), *sets, "--json").output)
    assert followed["verdict"] == found["best"]["verdict"] in ("fits", "tight")
    refused = run(*words, "--max-seq-len", "--set", "parallel.sp=8").exception
    assert isinstance(refused, TgsError) and refused.exit_code == ExitCode.BAD_PRESET


def test_scaling_a_model_takes_the_sp_that_fits_best():
    words = ("--scale", "8,64,512", "--model", "llama2_70b", "--seq-len", "128k", *H100, "--json")
    free = json.loads(run(*words).output)
    assert [point["num_gpus"] for point in free] == [8, 64, 512]
    assert free[1]["verdict"] in ("fits", "tight")
    fixed = json.loads(run(*words, "--set", "parallel.sp=8").output)
    assert {point["sp"] for point in fixed} == {8}
    assert free[2]["tgs"]["predicted"] >= fixed[2]["tgs"]["predicted"]


def test_a_plot_without_tgs_still_names_its_numbers_of_gpus():
    plot = run("--scale", "2,4", "--preset", "tiny_cpu").output.split("thin)")[1]
    assert [line.split()[0] for line in plot.strip().splitlines()] == ["2", "4"]
