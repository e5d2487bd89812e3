"""Real log samples of other systems and lines in the formats of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgsbench.errors import TgsError
from tgsbench.systems.logs import read_csv, read_log

LOGS = Path(__file__).resolve().parents[1] / "data" / "logs"


def test_xtuners_own_log():
    log = read_log((LOGS / "xtuner_log_sample.txt").read_text(), num_gpus=2, seq_len=512)
    assert log.tool == "xtuner"
    assert [(step.iteration, step.tgs, step.step_s) for step in log.steps] == [
        (1, 2635.8872, 0.0971),
        (2, 2403.5319, 0.1065),
        (3, 4323.7810, 0.0592),
    ]
    assert log.steps[0].loss == 5.7640


def test_llamafactorys_log_is_global_and_cumulative():
    log = read_log((LOGS / "llamafactory_trainer_log_sample.jsonl").read_text(), num_gpus=2, seq_len=512)
    assert log.tool == "llamafactory"
    seconds = 4096 / 17855.6 - 2048 / 17197.79
    assert log.steps[0].iteration == 2
    assert log.steps[0].step_s == pytest.approx(seconds)
    assert log.steps[0].tgs == pytest.approx(2048 / seconds / 2)


def test_torchtitan_and_megatron_lines():
    titan = "[titan] step: 10  loss: 7.1  memory: 40.5GiB(51%)  tps: 6,432  tflops: 350.1  mfu: 35.4%"
    step = read_log(titan, num_gpus=8, seq_len=8192).steps[0]
    assert (step.iteration, step.tgs, step.tflops, step.mfu_percent) == (10, 6432.0, 350.1, 35.4)
    megatron = "iteration 20/ 100 | elapsed time per iteration (ms): 500.0 | global batch size: 16"
    step = read_log(megatron + " | lm loss: 2.5E+00", num_gpus=8, seq_len=4096).steps[0]
    assert (step.iteration, step.tgs, step.loss) == (20, 16 * 4096 / 0.5 / 8, 2.5)


def test_what_no_known_tool_wrote_is_refused_with_the_known_ones():
    with pytest.raises(TgsError, match="no step with a throughput") as caught:
        read_log("hello\nworld\n", num_gpus=1, seq_len=1)
    assert "torchtitan" in caught.value.hint


def test_a_table_needs_a_column_for_tgs():
    assert read_csv("model,wps\nx,5\n") == [{"tgs": "5", "model": "x"}]
    with pytest.raises(TgsError, match="no column for TGS"):
        read_csv("a,b\n1,2\n")
