# ruff: noqa: E501 - lines as they are printed
"""Logs of other systems: lines as their writers print them, and what is asked where a log does not say it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tgsbench.cli.import_ import import_
from tgsbench.cli.runs import runs
from tgsbench.errors import ExitCode, TgsError
from tgsbench.results import imported
from tgsbench.systems import log_formats
from tgsbench.systems.logs import is_table, read_csv, read_log

LOGS = Path(__file__).resolve().parents[1] / "data" / "logs"
SHAPE = ("--model", "llama3_8b", "--seq-len", "8192")


def tgs(text: str, num_gpus: int = 0, seq_len: int = 8192, tool: str = "") -> tuple[str, list[float]]:
    log = read_log(text, num_gpus=num_gpus, seq_len=seq_len, tool=tool)
    return log.tool, [round(step.tgs, 2) for step in log.steps if step.tgs]


def test_megatron_says_its_gpus_by_tokens_of_one_and_of_all():
    log = read_log((LOGS / "megatron_8gpus.log").read_text(), seq_len=8192)
    assert (log.tool, log.num_gpus) == ("megatron", 8)
    assert log.steps[3].tgs == pytest.approx(64 * 8192 / 8.004 / 8)


MEGATRON = {
    "Primus: rank in front, running means behind": (
        "[20251023 12:39:12][rank-63/64][INFO ] [--------trainer.py:2382] :  iteration      424/   40000 | consumed "
        "samples:        27136 | elapsed time per iteration (ms): 16601.3/17219.3 | throughput per GPU (TFLOP/s/GPU): "
        "11.9/11.5 | tokens per GPU (tokens/s/GPU): 246.7/238.1 | global batch size:    64 | lm loss: 4.447942E+00 |",
        64 * 4096 / 16.6013 / 64, 11.9,
    ),
    "Megatron 26.5": (
        " iteration 20/ 100 | elapsed time per iteration (ms): 2000.0 | compute per GPU (TFLOP/s/GPU): 496.3 (avg "
        "496.1) | tokens/s/GPU inst/harmonic mean: 9640.7/9629.8 | lm loss: 2.0E+00 |", 9640.7, 496.3,
    ),
    "MindSpeed: at the end": (
        " iteration 3/ 10 | elapsed time per iteration (ms): 1000.0 | global batch size: 16 | lm loss: 8.77E+00 | "
        "TFLOPs: 320.33 | tokens-per-second-per-gpu: 8192.0 |", 16 * 4096 / 1.0 / 8, 320.33,
    ),
    "Megatron-DeepSpeed, seconds, rank prefix": (
        "3: [2024-01-01 10:00:00,000] iteration       10/     100 | elapsed time per iteration (s): 2.5 | "
        "tokens per gpu per second (tgs): 3028.125 | TFLOPs: 185.30 |", 3028.125, 185.3,
    ),
    "Bridge: the step's time in a line before": (
        "ain_fp8_mx/0 Step Time : 0.50s , 32680.36 tok/s/gpu, GPU utilization: 257.1MODEL_TFLOP/s/GPU\n"
        "ain_fp8_mx/0  [2025-12-22 15:18:33] iteration       50/      50 | consumed samples:        25600 | "
        "elapsed time per iteration (ms): 500.0 | learning rate: 3.000000E-05 |", 32680.36, 257.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEGATRON)
def test_megatrons_descendants(name):
    text, wanted, tflops = MEGATRON[name]
    log = read_log(text, seq_len=4096)
    assert log.tool == "megatron"
    assert log.steps[0].tgs == pytest.approx(wanted, rel=1e-3)
    assert log.steps[0].tflops == tflops


def test_several_ranks_of_torchtitan_in_one_file_are_one_run():
    lines = [
        f"[rank{rank}]:\x1b[31m[titan] 2026-01-01 - root - INFO - step: {step}  loss: 7.1  memory: {40 + rank}.0GiB(51%)"
        f"  tps: {1000 * step + rank:,}  tflops: 350.1  mfu: 35.4%\x1b[39m"
        for step in (1, 2, 3)
        for rank in (0, 2)
    ]
    log = read_log("\n".join(lines), seq_len=8192)
    assert [(step.iteration, step.tgs, step.mem_gib) for step in log.steps] == [
        (1, 1001.0, 42.0), (2, 2001.0, 42.0), (3, 3001.0, 42.0),
    ]  # fmt: skip


def test_xtuner_v1_is_no_table_and_its_ranks_share_a_sequence():
    text = (LOGS / "xtuner_v1.log").read_text()
    assert not is_table(text)
    assert tgs(text)[0] == "xtuner_v1"
    assert set(tgs(text)[1]) == {4000.0}
    line = (
        "[XTuner][RANK {rank}][2026-01-02 03:04:01][INFO] Step 1/12 data_time: 0.0100 lr: 0.000060 time: 2.0000 "
        "text_tokens: 900.0 total_loss: 2.000, max_memory: 3{rank}.00 GB grad_norm: 1.000 tgs: {tgs} "
        "seqlen_tgs: 700.0 exp_tgs: 300.0 eta: 0:01:00"
    )
    both = "\n".join(line.format(rank=rank, tgs=value) for rank, value in ((0, 566.3), (1, 448.2)))
    assert tgs(both) == ("xtuner_v1", [507.25])  # tokens of the group a second, over its two GPUs


SWIFT = [
    {
        "loss": "1.47", "grad_norm": 1.5, "token_acc": 0.66, "epoch": 0.01,
        "global_step/max_steps": f"{step}/94", "percentage": "1.06%", "elapsed_time": "7s",
        "memory(GiB)": 16.75, "train_speed(iter/s)": speed,
    }
    for step, speed in ((1, 0.1), (2, 0.125), (3, 0.1363636363))
]  # fmt: skip


@pytest.mark.parametrize("dump", [json.dumps, str])
def test_ms_swift_logs_times_alone_so_the_batch_is_asked_for(dump):
    text = "\n".join(f"Train:   1%|  | {i}/94 [00:07<12:06]\r{dump(row)}" for i, row in enumerate(SWIFT))
    with pytest.raises(TgsError, match="ms-swift log gives the time of its steps") as caught:
        read_log(text, seq_len=8192, num_gpus=8)
    assert "--global-batch" in caught.value.hint
    found = read_log(f"global batch size: 16\n{text}", seq_len=8192, num_gpus=8)
    assert found.tool == "ms-swift"
    assert [round(step.step_s, 4) for step in found.steps if step.step_s] == [6.0, 6.0]
    assert found.steps[-1].tgs == pytest.approx(16 * 8192 / 6 / 8, rel=1e-6)


def test_trainer_state_of_trl_counts_tokens_of_all_gpus():
    rows = [{"step": s, "loss": 2.0, "num_tokens": 65536.0 * s, "epoch": 0.1} for s in range(1, 6)]
    state = {"log_history": [*rows, {"step": 5, "train_runtime": 20.0, "train_steps_per_second": 0.25}]}
    text = json.dumps(state, indent=2)
    with pytest.raises(TgsError, match="tokens of all GPUs together"):
        read_log(text, seq_len=8192)
    log = read_log(text, seq_len=8192, num_gpus=4)
    assert log.tool == "transformers"
    assert log.steps[0].tgs == pytest.approx(5 * 65536 / 20 / 4)


def test_axolotl_prints_numbers_as_text_and_its_gpus_speed():
    text = "\r 10%|#   | 1/10 [00:03<00:27]{'loss': '1.25', 'learning_rate': '2e-05', 'epoch': '0.1', "
    text += "'tokens/train_per_sec_per_gpu': '3021.5', 'memory/max_active (GiB)': '60.1'}\r 20%|##  | 2/10"
    log = read_log(text, seq_len=8192)
    assert (log.tool, log.steps[0].tgs, log.steps[0].mem_gib) == ("transformers", 3021.5, 60.1)


NEMO = """\
Training epoch 0, iteration 0/249 | lr: 1.961e-06 | global_batch_size: 8 | global_step: 0 | reduced_train_loss: 1.315 | train_step_timing in s: 7.126
Training epoch 0, iteration 1/249 | lr: 3.922e-06 | global_batch_size: 8 | global_step: 1 | reduced_train_loss: 1.653 | train_step_timing in s: 2.000 | consumed_samples: 16
"""


def test_nemo_in_lines_and_in_its_progress_bar():
    tool, found = tgs(NEMO, num_gpus=8, seq_len=4096)
    assert (tool, found[1]) == ("nemo", 8 * 4096 / 2.0 / 8)
    bar = "".join(
        f"Epoch 0: :  1%|   | {n}/100 [10:48<00:00, reduced_train_loss=0.0172, global_step={n}.00, "
        f"consumed_samples={256 * n}.0, train_step_timing in s=3.130]\r"
        for n in (1, 2, 3)
    )
    assert tgs(bar, num_gpus=64, seq_len=4096)[1][-1] == round(256 * 4096 / 3.13 / 64, 2)


def test_deepspeeds_timer_counts_samples_of_all_gpus():
    lines = [
        f"[2026-01-01] [INFO] [timer.py:264:stop] epoch=0/micro_step={n}/global_step={n}, RunningAvgSamplesPerSec=9.9, "
        "CurrSamplesPerSec=16.0, MemAllocated=12.6GB, MaxMemAllocated=25GB"
        for n in (1, 2)
    ]
    with pytest.raises(TgsError, match="does not say of how many"):
        read_log("\n".join(lines), seq_len=1024)
    assert tgs("world size: 8\n" + "\n".join(lines), seq_len=1024) == ("deepspeed", [2048.0, 2048.0])


def test_exports_of_wandb_as_table_and_as_lines():
    table = 'Step,"llama - train/tps","llama - train/tps__MIN","llama - train/mfu"\n1,7000.5,1,40.1\n2,7100.5,1,40.2\n'
    assert not is_table(table)
    assert tgs(table) == ("metrics", [7000.5, 7100.5])
    lines = "\n".join(
        json.dumps({"_step": n, "train/tokens_per_sec_per_gpu": f"{100 + n}"}) for n in range(3)
    )
    assert tgs(lines) == ("metrics", [100.0, 101.0, 102.0])


def test_a_log_read_as_one_tool_names_the_next_best_and_can_be_forced():
    both = "\n".join(
        f"step: {n}  loss: 7.1  tps: 5,000  tflops: 350.1 {{'loss': 7.1, 'step': {n}, 'tgs': 4000.0}}"
        for n in range(4)
    )
    log = read_log(both, seq_len=8192)
    assert (log.tool, log.steps[0].tgs, log.runner_up) == ("torchtitan", 5000.0, "transformers (4 steps)")
    assert tgs(both, tool="metrics") == ("metrics", [4000.0] * 4)
    with pytest.raises(TgsError, match="no log reader called 'metrix'"):
        read_log(both, seq_len=8192, tool="metrix")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path, encoding):
    path = tmp_path / "table.csv"
    path.write_text("tgs;gpu;num_gpus\n7082;H100-SXM5-80GB;8\n", encoding=encoding)
    assert read_csv(imported.read_text(path)) == [{"tgs": "7082", "gpu": "H100-SXM5-80GB", "num_gpus": "8"}]


def test_tensorboards_event_files_are_read(tmp_path):
    pytest.importorskip("tensorboard")
    from tgsbench.results import scalars

    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter(tmp_path)
    for step in range(1, 5):
        writer.add_scalar("perf/tgs", 1000.0 + step, step)
        writer.add_scalar("train/loss", 2.0, step)
    writer.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    assert tgs(imported.read_text(path)) == ("metrics", [1001.0, 1002.0, 1003.0, 1004.0])
    broken = tmp_path / "broken"
    broken.write_bytes(path.read_bytes()[:40])
    assert not scalars.is_event_file(b'{"a": 1}')
    with pytest.raises(TgsError):
        read_log(imported.read_text(broken), seq_len=1)


def test_imported_rows_stand_in_the_list_of_runs(tmp_path):
    def ask(command, *words):
        done = CliRunner().invoke(command, [*words, "--output", str(tmp_path)], catch_exceptions=False)
        return done.stdout

    ask(import_, str(LOGS / "xtuner_v1.log"), *SHAPE, "--name", "theirs", "--num-gpus", "8")
    (tmp_path / "foreign" / "broken.json").write_text("{")
    listed = ask(runs)
    assert "theirs" in listed
    assert "imported" in listed
    rows = {row["run_id"]: row for row in json.loads(ask(runs, "--json"))}
    assert (rows["theirs"]["status"], rows["theirs"]["tgs"], rows["theirs"]["world_size"]) == (
        "imported",
        4000.0,
        8,
    )
    assert rows["broken"]["status"] == "damaged"
    assert json.loads(ask(runs, "--json", "--status", "ok")) == []


def test_totals_of_unknown_gpus_are_refused_by_the_command():
    with pytest.raises(TgsError, match="does not say of how many") as caught:
        CliRunner().invoke(
            import_, [str(LOGS / "llamafactory_8gpus.jsonl"), *SHAPE, "--dry-run"], standalone_mode=False,
            catch_exceptions=False,
        )  # fmt: skip
    assert (caught.value.exit_code, caught.value.hint) == (ExitCode.BAD_INPUT, "--num-gpus 8")


def test_units_behind_figures_and_in_names_count():
    lines = (
        "step: 10 loss: 5.1 memory: 40.00GiB(50%) tps: 3,600 mfu: 20%\nstep: 20 loss: 5.0 tps: 3.6k mfu: 20%"
    )
    assert [step.tgs for step in log_formats.torchtitan_steps(lines, 8, 8192)] == [3600, 3600]
    rows = "step,step_time_ms,global_batch_size,loss\n1,4000,64,2.5\n2,4000,64,2.4\n"
    assert [step.step_s for step in log_formats.metric_steps(rows, 8, 8192)] == [4.0, 4.0]
    texts = '{"step": 1, "tokens_per_sec_per_gpu": "3.6k tok/s", "step_time": "812 ms", "mem_gib": "50.1GiB"}'
    (step,) = log_formats.metric_steps(texts, 8, 8192)
    assert (step.tgs, step.step_s, step.mem_gib) == (3600, pytest.approx(0.812), 50.1)


def test_an_object_behind_a_progress_bar_in_its_line_is_a_row():
    bar = "  1%|1  | {0}/100 [00:10<16:30, 10.0s/it]"
    row = '{{"loss": "2.5", "tokens_per_second_per_gpu": "1638.4", "epoch": "0.0{0}"}}'
    text = "\r".join(bar.format(number) + row.format(number) for number in (1, 2))
    assert [step.tgs for step in log_formats.metric_steps(text, 8, 8192)] == [1638.4, 1638.4]
