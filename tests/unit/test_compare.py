from __future__ import annotations

import math

import msgspec
import pytest

from tests.unit.stored import a_forecast
from tgsbench import presets
from tgsbench.planner.plan import forecast_preset
from tgsbench.report.comparison import interval_of
from tgsbench.results.compare import compare, compare_pairs, from_forecast, from_reference, from_result
from tgsbench.schema.environment import Environment
from tgsbench.schema.forecast import TgsRange
from tgsbench.schema.run import Failure, Packing, Result, Tgs

PRESET = presets.resolve("llama2_7b_32k").preset
XTUNER, LLAMAFACTORY = presets.load_references()["llama2_7b_32k"]
FAST = [2300.0, 2310.0, 2305.0, 2290.0, 2295.0, 2302.0, 2308.0]


def result(samples=FAST, **changes):
    ordered = sorted(samples)
    base = Result(
        run_id="mine",
        status="ok",
        preset=PRESET.name,
        engine="fsdp2",
        device="NVIDIA A100-SXM4-80GB",
        world_size=8,
        dp=8,
        sp=1,
        seq_len=32768,
        document_mask=False,
        attention="native/flash2",
        checkpointing="full",
        corpus="alpaca",
        model=PRESET.model,
        compute_dtype="bfloat16",
        tokens_per_step=PRESET.tokens_per_step,
        tgs=Tgs(
            median=ordered[len(ordered) // 2], ci95=(ordered[0], ordered[-1]), n=len(samples), samples=samples
        ),
        environment=Environment(versions={"torch": "2.13.0"}),
    )
    return msgspec.structs.replace(base, **changes)


def row(samples=FAST, **changes):
    return from_result(result(samples, **changes))


def published(reference=XTUNER):
    return from_reference(reference, PRESET)


def test_a_run_on_the_published_gpu_has_a_ratio_and_an_interval():
    found = compare(row(), published())
    assert (found.verdict, found.reasons) == ("better", [])
    assert found.ratio.value == pytest.approx(2302 / 2234.2)
    assert found.ratio.ci95 == pytest.approx((2290 / 2234.2, 2310 / 2234.2))


def test_samples_on_both_sides_are_ranked():
    slower = [sample * 0.9 for sample in FAST]
    found = compare(row(slower, run_id="other"), row())
    assert found.verdict == "worse"
    assert found.ratio.p_value == pytest.approx(2 / 3432)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"device": "NVIDIA H100 80GB HBM3"}, "GPU"),
        ({"world_size": 16}, "GPUs"),
        ({"seq_len": 8192}, "sequence length"),
        ({"document_mask": True}, "attention mask"),
        ({"rehearsal_of": "llama2_7b_32k"}, "size"),
        ({"status": "emulated"}, "measurement"),
        ({"model": presets.load_model("yi_34b")}, "model"),
        ({"compute_dtype": "float32"}, "compute dtype"),
    ],
)
def test_what_makes_a_ratio_meaningless(changes, what):
    found = compare(row(**changes), published())
    assert (found.verdict, found.ratio, found.forced) == ("not comparable", None, False)
    assert any(reason.startswith(what) for reason in found.reasons)
    assert [d.what for d in found.differences if d.blocks] == [what]
    forced = compare(row(**changes), published(), force=True)
    assert (forced.verdict, forced.forced) == ("not comparable", True)
    assert forced.ratio is not None


def test_tokens_per_step_and_padding_block_between_runs():
    found = compare(row(tokens_per_step=1), row(packing=Packing(share_padded=0.27)))
    assert [d.what for d in found.differences if d.blocks] == ["tokens per step", "padding"]


def test_a_little_padding_is_told_but_does_not_block():
    found = compare(row(), row(packing=Packing(share_padded=0.02), run_id="b"))
    (difference,) = found.differences
    assert (difference.what, difference.blocks) == ("padding", False)
    assert found.verdict == "same"


def test_fp8_is_never_compared_with_bf16_as_equal_but_with_fp8():
    fp8, tensorwise = row(linear="FP8 rowwise"), row(linear="FP8 tensorwise")
    for other in (row(), published()):
        found = compare(fp8, other)
        assert found.verdict == "not comparable"
        assert found.ratio is None
        assert any("FP8 rowwise against bfloat16" in reason for reason in found.reasons)
    found = compare(fp8, tensorwise)
    assert found.ratio is not None
    assert [d.what for d in found.differences] == ["products"]


def test_choices_of_a_system_are_listed_and_do_not_block():
    other = row(
        engine="deepspeed",
        sp=2,
        checkpointing="selective",
        attention="alst/sdpa",
        environment=Environment(versions={"torch": "2.12.0", "deepspeed": "0.19.8"}),
    )
    found = compare(other, row())
    assert [d.what for d in found.differences] == [
        "engine", "sequence parallel", "checkpointing", "attention kernel", "deepspeed", "torch",
    ]  # fmt: skip
    assert found.reasons == []


def test_two_rehearsals_of_one_preset_compare():
    pair = [row(rehearsal_of="llama2_7b_32k", run_id=name) for name in "ab"]
    assert compare(*pair).verdict == "same"


def test_an_out_of_memory_row_is_named_as_the_reason():
    gone = presets.load_references()["llama2_7b_128k"][1]
    preset = presets.resolve("llama2_7b_128k").preset
    found = compare(row(seq_len=131072), from_reference(gone, preset), force=True)
    assert found.ratio is None
    assert "llamafactory:llama2_7b_128k has no TGS to compare: out of memory" in found.reasons


@pytest.mark.parametrize(
    ("median", "samples", "said"),
    [(0.0, [0.0] * 7, "0"), (2300.0, [0.0, *FAST[:6]], "0"), (2300.0, [math.inf, *FAST[:6]], "inf")],
    ids=["median", "sample", "infinite"],
)
def test_a_tgs_of_0_is_refused_and_no_ratio_is_made_even_if_forced(median, samples, said):
    odd = row(tgs=Tgs(median=median, n=7, samples=samples))
    for found in (
        compare(odd, row(), force=True),
        compare(row(), odd),
        compare_pairs(odd, row(), [(0.0, 1.0)]),
    ):
        assert found.ratio is None
        assert found.verdict == "not comparable"
        assert f"mine has no TGS to compare: {said} is among its figures" in found.reasons


def test_a_failed_run_is_a_row_without_a_ratio():
    failed = row(status="crashed", tgs=Tgs(), failure=Failure(kind="exception", reason="rank 3 raised"))
    assert compare(failed, row()).reasons == ["mine has no TGS to compare: rank 3 raised"]


def test_a_run_on_a_disturbed_machine_is_said_beside_the_ratio():
    busy = row(disturbances=["other processes used 1.5 of 2 cores"], run_id="busy")
    assert (
        "busy: measured on a disturbed machine: other processes used 1.5 of 2 cores"
        in compare(busy, row()).notes
    )
    assert not any("disturbed" in note for note in compare(row(run_id="quiet"), row()).notes)


def test_an_invalid_runs_number_is_never_used():
    assert compare(row(status="invalid"), row()).verdict == "not comparable"


def test_an_unknown_gpu_is_not_taken_for_another():
    found = compare(row(device="Some New Card"), published())
    assert "GPU: Some New Card against A100-SXM4-80GB" in found.reasons


def test_a_published_row_has_the_mfu_that_its_tgs_says_on_its_gpu():
    # 2,234.2 tokens/s x 6 x (6.607e9 weights in products + 32 layers x 4,096 x 32,768) / 312 TFLOPs
    assert published().mfu == pytest.approx(2234.2 * 6 * (6.607e9 + 32 * 4096 * 32768) / 312e12, rel=1e-3)
    assert published(msgspec.structs.replace(XTUNER, gpu="Some New Card")).mfu is None
    assert published(msgspec.structs.replace(XTUNER, document_mask=True)).mfu is None


def test_published_rows_of_two_systems_compare_without_a_claim_of_significance():
    found = compare(published(), published(LLAMAFACTORY))
    assert found.ratio.value == pytest.approx(2234.2 / 2045.4)
    assert found.verdict == "not significant"
    assert any("without an interval" in note for note in found.notes)


def test_a_forecast_carries_its_error_bar():
    forecast = a_forecast(tgs=TgsRange(estimate=2200.0, low=2050.0, high=2350.0), total_gib=61.0)
    found = compare(row(), from_forecast(PRESET, forecast))
    assert found.verdict == "not significant"
    assert found.b.mem_peak_gib == 61.0


def test_cpus_of_two_models_are_two_devices():
    ours = row(device="cpu", environment=Environment(cpu="EPYC 9B14"))
    theirs = row(device="cpu", environment=Environment(cpu="Xeon 8481C"))
    assert compare(ours, theirs).reasons == ["GPU: CPU EPYC 9B14 against CPU Xeon 8481C"]


def test_the_80_percent_of_a_plan_is_never_called_95():
    planned = from_forecast(PRESET, forecast_preset(PRESET))
    low, high = planned.range80
    assert planned.ci95 is None and interval_of(planned).startswith("80 %: ")
    ratio = compare(planned, published()).ratio
    # Of a normal logarithm: 1.96 standard deviations for 1.28.
    arms = math.log(ratio.value / ratio.ci95[0]), math.log(ratio.ci95[1] / ratio.value)
    assert arms == pytest.approx(
        (1.5294 * math.log(planned.tgs / low), 1.5294 * math.log(high / planned.tgs)), rel=1e-4
    )
