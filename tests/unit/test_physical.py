"""A run that computes nothing is invalid, by the name of what gave it away; an odd but honest one is not."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.test_results import FIRST, events, result
from tgsbench import presets
from tgsbench.metrics.integrity import expected_all_to_alls
from tgsbench.metrics.packs import PackLedger, packs_of_step
from tgsbench.metrics.physical import CHECKS, scheduled_lr
from tgsbench.report.summary import summary_lines
from tgsbench.schema.events import FirstStep, Hello, Step, Waits
from tgsbench.schema.hotspots import Collective, HotOp, Profile
from tgsbench.traces.findings import findings

GPU = "NVIDIA A100-SXM4-80GB"
SETS = ["hardware.device=cuda", "measure.steps=8"]
CUDA = presets.resolve("tiny_cpu", SETS).preset


def stream(device="cpu", change=None, **fields):
    """The clean run with steps changed alike on both ranks; `change` gives fields by step."""
    told = []
    for event in events():
        if isinstance(event, Hello):
            event = msgspec.structs.replace(event, device=device)
        if isinstance(event, Step):
            event = msgspec.structs.replace(event, **{**fields, **(change(event.step) if change else {})})
        told.append(event)
    return told


def problems(told, preset=CUDA):
    found = result(told, preset=preset)
    assert (found.status == "invalid") == bool(found.integrity.problems)
    return found.integrity.problems


FAULTS = {
    "first loss": {"loss_sum": 0.0},
    "gradient norm": {"grad_norm": 0.0},
    "data time": {"data_s": 3.0},
    "memory": {"mem_peak": 1000},
    "clock": {"step_s": 0.25},
    "packs": {"pack_digest": 7},
    "update": {"update": 0.0},
}


@pytest.mark.parametrize("name", FAULTS, ids=str)
def test_each_check_calls_the_fault_by_its_name(name):
    found = problems(stream(**FAULTS[name]))
    assert any(problem.startswith(f"{name}: ") for problem in found), found


def test_a_run_whose_kernels_do_no_work_is_invalid_and_no_record():
    found = result(stream(GPU, loss_sum=0.0, grad_norm=0.0, step_s=1e-9, update=0.0), preset=CUDA)
    assert found.status == "invalid"
    named = {problem.split(":")[0] for problem in found.integrity.problems}
    assert named == {"first loss", "loss", "gradient norm", "MFU", "all-to-all rate", "clock", "update"}
    assert found.integrity.physical_ok is False


@pytest.mark.parametrize(
    "change",
    [
        lambda step: {"loss_sum": 700 * FIRST},
        lambda step: {"grad_norm": 1.25},
        lambda step: {"loss_sum": 700 * FIRST * (3 if step == 0 else 1)},
    ],
    ids=["a loss that stays", "a norm that stays", "a first loss too high"],
)
def test_what_stays_or_is_no_number_is_invalid(change):
    assert len(problems(stream(change=change))) == 1


@pytest.mark.parametrize(("wait_s", "odd"), [(1.0, False), (3.8, True)])
def test_nobody_waits_longer_than_the_step(wait_s, odd):
    waits = Waits(rank=1, t=103.5, step=2, step_s=1.0, wait_s={"sp": wait_s, "fsdp": 0.5})
    found = problems([*stream(), waits])
    assert found == ["waits: in step 2 a rank waited 3.8 times the whole step"] * odd


def test_an_honest_run_on_a_gpu_passes_every_check():
    found = result(stream(GPU), preset=CUDA)
    assert (found.status, found.integrity.physical_ok, found.integrity.not_checked) == ("ok", True, [])


def test_an_unknown_gpu_is_said_to_be_not_checked():
    found = result(stream("Imaginary 9000"), preset=CUDA)
    assert found.status == "ok"
    assert [text.split(":")[0] for text in found.integrity.not_checked] == ["MFU", "all-to-all rate"]
    assert any("no peak is known for 'Imaginary 9000'" in line for line in summary_lines(found))


def test_runs_that_cannot_be_held_against_a_check_are_not_flagged():
    short = [e for e in stream() if not (isinstance(e, Step) and e.step > 1)]
    one_step = presets.resolve("tiny_cpu", [*SETS, "measure.steps=1"]).preset
    assert problems(short, preset=one_step) == []
    frozen = presets.resolve("tiny_cpu", [*SETS, "training.lr=0"]).preset
    assert problems(stream(change=lambda step: {"loss_sum": 700 * FIRST}), preset=frozen) == []
    falling = stream(change=lambda step: {"loss_sum": 700 * (3.0 - 0.1 * step)})
    late = [e for e in falling if not (isinstance(e, Step) and e.step == 0)]
    assert problems(late) == []
    assert any("step 0" in text for text in result(late, preset=CUDA).integrity.not_checked)
    assert problems(stream(mem_peak=0)) == []
    assert problems(stream(device="simulated", loss_sum=0.0)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda step: {"step_s": 1.04}, "rank 0 tells of 8.320 s in 8 steps"),
        (lambda step: {"update": 0.5 * scheduled_lr(CUDA, step)}, "step 0 changed weights by"),
        (
            lambda step: {"update": scheduled_lr(CUDA, step) if step < 2 else 0.0},
            "step 2 changed weights",
        ),
        (lambda step: {"update": 10 * scheduled_lr(CUDA, step) if step else 2e-5}, "step 1 changed weights"),
        (lambda step: {"pack_digest": 1 + step % 8}, "rank 0 trained in step 8 what rank 0 had in step 0"),
    ],
    ids=["clock runs fast", "half the rate", "stops", "ten times the rate", "packs repeat"],
)
def test_what_a_trainer_cannot_tell_of_itself_is_named(change, words):
    (problem,) = problems(stream(change=change))
    assert words in problem


def test_a_step_told_twice_counts_once_by_the_clock_too():
    told = stream()
    assert problems([*told, *(e for e in told if isinstance(e, Step))]) == []


def test_the_look_at_the_first_step_is_no_part_of_the_second():
    told = stream(change=lambda step: {"step_s": 1.0, "t": 100 + 1.0003 * step + (0.6 if step else 0.0)})
    (problem,) = problems(told)
    assert "rank 0 tells of 8.000 s in 8 steps" in problem
    looked = []
    for event in told:
        looked.append(event)
        if isinstance(event, Step) and event.step in (0, 3):  # a second look changes nothing
            looked.append(FirstStep(rank=event.rank, t=event.t + 0.6))
    assert problems(looked) == []
    late = [msgspec.structs.replace(e, step_s=0.9) if isinstance(e, Step) else e for e in looked]
    assert any("tells of" in text for text in problems(late))


def test_packs_come_again_in_the_next_epoch():
    """Three packs an epoch, two a step: steps 0 and 3 train the same ones, and so do 1 and 4."""
    preset = presets.resolve("tiny_cpu", ["training.accumulation=2"]).preset
    ledger = PackLedger()
    for step in range(6):
        ledger.add(Step(step=step, rank=0, pack_digest=1 + step % 3))
    assert ledger.twice(preset, 3) == []
    assert len(ledger.twice(preset, 4)) == 3
    assert packs_of_step(preset, 0, 2) == [4, 5]


def test_events_of_an_older_version_leave_the_new_checks_open():
    old = stream(GPU, t=0.0, update=None, pack_digest=0)
    assert [text.split(":")[0] for text in result(old, preset=CUDA).integrity.not_checked] == [
        "clock", "packs", "update",
    ]  # fmt: skip


def first_steps(lr, norm, **changes):
    """Both ranks' looks at the first step of four layers; rank 1 holds no part of the last."""
    moments = (norm * (1 - CUDA.training.beta1)) ** 2 / 2
    seen = {"updates": [lr, lr, lr, lr], "moments_squared": moments, **changes}
    last = [*seen["updates"][:3], None]
    return [FirstStep(rank=0, **seen), FirstStep(rank=1, **{**seen, "updates": last})]


LR = scheduled_lr(CUDA, 0)
NORM = next(event.grad_norm for event in events() if isinstance(event, Step))


def test_a_first_step_that_moves_every_layer_by_the_clipped_gradient_is_sound():
    expected = min(NORM, CUDA.training.clip_norm)
    assert problems([*stream(GPU), *first_steps(LR, expected)]) == []
    (rank_0, _) = first_steps(LR, 9.0)
    assert problems([*stream(GPU), rank_0]) == [], "half of the moments is not all of them"
    unknown = first_steps(LR, 9.0, moments_squared=None, updates=[])
    assert problems([*stream(GPU), *unknown]) == []


def test_other_targets_than_those_of_the_packs_are_named():
    assert problems([*stream(), *first_steps(LR, NORM, moments_squared=None, num_labels=1400)]) == []
    (problem,) = problems([*stream(), *first_steps(LR, NORM, moments_squared=None, num_labels=1398)])
    assert problem == "first loss: step 0 had 1,400 targets where its packs hold 1,398"


def test_a_micro_step_whose_gradients_weigh_nothing_is_named():
    assert problems([*stream(), *first_steps(LR, NORM, moments_squared=None, added=[1.0, 0.001, 0.3])]) == []
    (problem,) = problems([*stream(), *first_steps(LR, NORM, moments_squared=None, added=[1.0, 1e-9, 0.0])])
    assert problem == "gradient norm: micro-step 2, 3 of step 0 added nothing to the gradients of rank 0"


def test_a_layer_that_the_first_step_left_is_named():
    still = first_steps(LR, min(NORM, CUDA.training.clip_norm), updates=[LR, LR / 100, LR, 0.0])
    (problem,) = problems([*stream(GPU), *still])
    assert problem == "update: step 0 left the weights of layer 1, 3 as they were"


def test_gradients_that_the_optimizer_took_unclipped_are_named():
    told = stream(GPU, change=lambda step: {"grad_norm": 3.0 + step / 100})
    assert problems([*told, *first_steps(LR, 1.0)]) == []
    (problem,) = problems([*told, *first_steps(LR, 3.0)])
    assert problem.startswith("gradient norm: in step 0 the optimizer took gradients of norm 3, where 3 was")


def test_every_check_says_what_it_rests_on():
    assert all(check.__doc__ and check.__doc__.endswith(".") for check in CHECKS.values())
    assert expected_all_to_alls(CUDA)[0] > 0


def test_a_kernel_and_a_collective_faster_than_the_hardware_are_findings():
    fast = HotOp(name="gemm", kind="gemm", tflops=900.0, peak_tflops=312.0, share=0.3)
    able = HotOp(name="attention", kind="attention_fwd", tflops=200.0, peak_tflops=312.0, share=0.3)
    link = Collective(name="all_to_all", group="", bus_gb_per_s=900.0, peak_gb_per_s=300.0)
    profile = Profile(source="x", top=[fast, able], collectives=[link], step_ms=1.0)
    texts = [found.text for found in findings(profile) if found.code == "impossible"]
    assert sorted(texts) == [
        "all-to-all: 900.0 GB/s, more than the 300 that the hardware can do",
        "gemm: 900.0 TFLOPs, more than the 312 that the hardware can do",
    ]
