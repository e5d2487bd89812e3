"""Events to results: throughput, integrity, verdicts, root causes."""

from __future__ import annotations

import math

import msgspec
import pytest

from tests.unit.stored import a_preset, a_result, store_run
from tgsbench import presets
from tgsbench.cli import run as run_command
from tgsbench.errors import ExitCode
from tgsbench.metrics import integrity, physical, reference
from tgsbench.metrics.failure import root_cause
from tgsbench.metrics.observe import fold_events
from tgsbench.metrics.result import build_result, throughput
from tgsbench.report.summary import next_command
from tgsbench.schema.environment import Environment
from tgsbench.schema.events import Bye, Data, Error, Hello, Kernel, Step
from tgsbench.schema.run import LauncherReport, Manifest, Outcome, RankExit, ReferenceVerdict, Tgs

PRESET = presets.resolve("tiny_cpu", ["measure.steps=8"]).preset
CALLS, BYTES = integrity.expected_all_to_alls(PRESET)

FIRST = math.log(PRESET.model.vocab_size)
"""Loss of random weights."""


def events(steps: int = 8, step_s: float = 0.5, **changes) -> list:
    """A clean run of two ranks; `changes` override fields of rank 1's steps."""
    out: list = [packed(0)]
    for rank in (0, 1):
        out.append(Hello(rank=rank, world=2, host=f"h{rank}", device="cpu", versions={"torch": "2"}))
        for index in range(steps + 1):
            fields = {
                "rank": rank, "step": index, "phase": "measure" if index else "warmup", "tokens": 1024,
                "labels": 700, "step_s": step_s + 0.01 * rank, "mem_peak": 2**30,
                "loss_sum": 700.0 * ((1 + rank) if index else FIRST), "grad_norm": 1.0 + 0.1 * index,
                "a2a_calls": CALLS, "a2a_bytes": BYTES, "seen_checksum": 5, "pack_tokens": 2048 * (rank == 0),
                "pack_checksum": 10 * (rank == 0), "pack_digest": (index + 1) * (rank == 0),
                "t": 100 + (step_s + 0.0101) * index, "update": physical.scheduled_lr(PRESET, index),
            }  # fmt: skip
            out.append(Step(**{**fields, **(changes if rank == 1 else {})}))
        out.append(Bye(rank=rank))
    out.append(Kernel(name="sdpa"))
    return out


def packed(tokens_padded: int) -> Data:
    """An epoch of 99 packs."""
    return Data(
        corpus="x", num_documents=1, num_tokens=9, num_full=99, num_short=0, mean_pack_tokens=1,
        tokens_lost=0, tokens_padded=tokens_padded,
    )  # fmt: skip


def result(stream, outcome=None, launcher=None, preset=PRESET, device="cpu"):
    manifest = Manifest(
        run_id="r", preset=preset.name, engine="fsdp2", created_unix=0, world_size=2, device=device
    )
    return build_result(manifest, preset, fold_events(stream), outcome or Outcome(), launcher, Environment())


def test_tgs_is_tokens_over_gpus_and_the_slowest_ranks_seconds():
    tgs = throughput(fold_events(events()).complete("measure", 2), 2)
    assert tgs.n == 8
    assert tgs.median == pytest.approx(2048 / (2 * 0.51))
    assert tgs.total == pytest.approx(tgs.median)
    assert tgs.ci95 is not None


def test_warm_up_and_steps_that_a_rank_lacks_are_not_measured():
    stream = [e for e in events() if not (isinstance(e, Step) and e.rank == 1 and e.step == 8)]
    assert [s.step for s in fold_events(stream).complete("measure", 2)] == list(range(1, 8))


def test_a_clean_run_is_ok_with_label_weighted_loss_and_no_mfu_on_cpu():
    clean = result(events())
    assert clean.status == "ok"
    assert clean.loss.first == pytest.approx(1.5)
    assert clean.mfu is None
    assert clean.attention == "native/sdpa"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": 1000}, "distinct tokens"),
        ({"seen_checksum": 6}, "do not add up"),
        ({"a2a_calls": CALLS - 1}, "all-to-alls ran"),
        ({"a2a_bytes": 2 * BYTES}, "bytes"),
    ],
)
def test_a_wrong_count_makes_the_run_invalid(changes, words):
    wrong = result(events(**changes))
    assert wrong.status == "invalid"
    assert any(words in problem for problem in wrong.integrity.problems)


def test_sp_silently_one_is_caught_though_every_rank_saw_whole_packs():
    """Each rank trains the whole pack: checksums of each group agree, the token count does not."""
    stream = []
    for event in events():
        if isinstance(event, Step):
            event = msgspec.structs.replace(
                event,
                tokens=2048,
                pack_tokens=2048,
                seen_checksum=10,
                pack_checksum=10,
                a2a_calls=0,
                a2a_bytes=0,
            )
        stream.append(event)
    assert result(stream).status == "invalid"


def test_padding_is_expected_where_packing_reports_it():
    stream = events(tokens=1000)
    for event in stream:
        if isinstance(event, Step) and event.rank == 0:
            event.pack_tokens = 2024
    assert result([*stream, packed(24)]).integrity.tokens_ok


def test_all_to_all_prediction_of_the_70b_row():
    preset = presets.resolve("llama2_70b_1M").preset
    calls, num_bytes = integrity.expected_all_to_alls(preset)
    # Of 64 query heads each rank has one: k and v, q, the output.
    assert calls == 3 * 80 * 64 * 3
    # KV is repeated from 8 heads to sp = 64, no further: 2·64 query and output heads + 2·64
    assert num_bytes == 3 * 80 * 64 * 16384 * (2 * 64 + 2 * 64) * 128 * 2


ROW = presets.load_references()["llama2_7b_8k"][0]
ROW_PRESET = presets.resolve("llama2_7b_8k").preset


@pytest.mark.parametrize(
    ("median", "ci95", "verdict"),
    [
        (3300.0, (3290.0, 3310.0), "better"),
        (2800.0, (2790.0, 2810.0), "worse"),
        (3030.0, (3020.0, 3040.0), "same"),
        (3100.0, (3000.0, 3200.0), "not significant"),
    ],
)
def test_verdicts_against_a_published_row(median, ci95, verdict):
    tgs = Tgs(median=median, ci95=ci95, n=9, samples=[median])
    assert reference.compare_with_published(ROW_PRESET, "NVIDIA A100-SXM4-80GB", tgs, ROW).verdict == verdict


@pytest.mark.parametrize(
    ("sets", "device", "words"),
    [
        ([], "NVIDIA H100 80GB HBM3", "GPU H100-SXM5-80GB, published A100-SXM4-80GB"),
        ([], "Imaginary", "GPU Imaginary"),
        (["workload.document_mask=true"], "NVIDIA A100-SXM4-80GB", "document mask True"),
        (["hardware.num_gpus=4"], "NVIDIA A100-SXM4-80GB", "GPUs 4"),
    ],
)
def test_other_work_is_not_comparable_and_says_why(sets, device, words):
    preset = presets.resolve("llama2_7b_8k", sets).preset
    verdict = reference.compare_with_published(preset, device, Tgs(median=9e9, n=1, samples=[9e9]), ROW)
    assert verdict.verdict == "not comparable"
    assert verdict.ratio is None
    assert any(words in reason for reason in verdict.reasons)


def test_the_first_rank_that_failed_is_the_root_cause_not_those_it_took_along():
    follower = Error(
        rank=0, t=1.0, kind="exception", msg="RuntimeError: Connection closed by peer", traceback="x"
    )
    cause = Error(rank=1, t=2.0, kind="exception", msg="ValueError: boom", traceback="boom here")
    failure = root_cause(fold_events([follower, cause]), Outcome(exit_code=1), None, 2)
    assert (failure.rank, failure.reason) == (1, "ValueError: boom")


def test_a_killed_rank_is_named_with_its_signal():
    follower = Error(rank=0, t=1.0, kind="exception", msg="RuntimeError: Connection reset by peer")
    report = LauncherReport(exits=[RankExit(rank=1, exit_code=-9, signal="SIGKILL", t=3)])
    failed = result([*events()[:4], follower], Outcome(exit_code=8), report)
    assert failed.status == "crashed"
    assert failed.failure.reason == "rank 1 was killed by SIGKILL"


def test_out_of_memory_keeps_what_was_asked_for():
    stream = [Error(rank=1, kind="oom", msg="CUDA out of memory", bytes_requested=123)]
    failed = result(stream, Outcome(exit_code=1))
    assert (failed.status, failed.failure.bytes_requested) == ("oom", 123)


@pytest.mark.parametrize("status", ["cancelled", "preempted", "stalled"])
def test_what_only_the_supervisor_knows_wins(status):
    stopped = result(events()[:-2], Outcome(status=status, reason="why"))
    assert stopped.status == status
    assert stopped.tgs.n == 8


def test_a_result_that_could_not_be_stored_has_an_exit_code_of_its_own(tmp_path, capsys):
    folder = store_run(tmp_path, "kept")
    result = folder.result()
    assert run_command._exit_code(result, folder) == ExitCode.OK
    (folder.path / "result.json").unlink()
    assert run_command._exit_code(result, folder) == ExitCode.STORE
    assert "tgsbench show kept" in capsys.readouterr().err


def test_memory_of_each_rank_is_of_the_steps_that_its_largest_is_of():
    profiled = [
        Step(rank=rank, step=9, phase="profile", tokens=1024, labels=700, step_s=1.0, mem_peak=9 << 30)
        for rank in (0, 1)
    ]
    stream = events()
    mem = result([*stream[:-1], *profiled, stream[-1]]).mem
    assert mem.by_rank_gib == [1.0, 1.0]
    assert mem.peak_gib == max(mem.by_rank_gib)


@pytest.mark.parametrize(
    ("verdict", "command"),
    [
        ("same", "tgsbench compare 'my runs/r' published:llama2_7b_32k"),
        ("none", "tgsbench compare 'my runs/r' published:llama2_7b_32k"),
        ("not comparable", "tgsbench report 'my runs/r' --html report.html"),
    ],
)
def test_a_result_leads_to_published_rows_only_where_they_can_be_compared(verdict, command):
    found = [ReferenceVerdict(source="trl: a table", verdict=verdict)]
    result = a_result(a_preset(), "r", run_dir="my runs/r", references=found)
    assert next_command(result) == command
    assert next_command(msgspec.structs.replace(result, references=[])).startswith("tgsbench report")
