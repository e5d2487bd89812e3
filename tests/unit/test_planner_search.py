"""Searches, the longest sequence, scaling, advice, and the trace of a predicted step."""

from __future__ import annotations

import itertools
import json
import math

import msgspec
import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.planner import search as search_module
from tgsbench.planner.advice import advise, assign
from tgsbench.planner.chrome import chrome_trace
from tgsbench.planner.machine import Machine
from tgsbench.planner.plan import estimate, forecast_preset, machine_of
from tgsbench.planner.scale import scale
from tgsbench.planner.search import assignments_of, leanest_at_longest, max_seq_len, search, variants
from tgsbench.presets.sequence_chunks import CHUNK_TOKENS
from tgsbench.presets.validate import mesh_problems
from tgsbench.report import plan as report
from tgsbench.schema import spans
from tgsbench.systems.registry import find_system
from tgsbench.units import GIB


def preset(name: str = "llama2_70b_128k", *sets: str):
    return presets.resolve(name, list(sets)).preset


def planned(asked):
    return estimate(asked, machine_of(asked))


@pytest.fixture(scope="module")
def found():
    asked = preset()
    return asked, search(asked, machine_of(asked))


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("llama2_70b_128k", ()),
        ("llama2_7b_128k", ()),
        ("qwen3_30b_a3b_8k", ()),
        ("llama2_7b_128k", ("hardware.num_gpus=16",)),
    ],
)
def test_no_two_candidates_look_alike(name, sets):
    """Whatever a search varies is told: two lines of one wording would be two different runs."""
    asked = preset(name, *sets)
    candidates = search(asked, machine_of(asked)).candidates
    told = [(c.sp, c.dp, c.micro_batch, c.checkpointing, report.manner(c)) for c in candidates]
    assert len(candidates) > 10
    assert len(set(told)) == len(told)


def test_candidates_fit_and_are_ranked(found):
    _, result = found
    speeds = [candidate.sure_tgs for candidate in result.candidates]
    assert 0 < len(speeds) < result.num_tried
    assert speeds == sorted(speeds, reverse=True)
    assert {c.verdict for c in result.candidates} <= {"fits", "tight"}
    assert {c.engine for c in result.candidates} == {"fsdp2", "deepspeed"}
    assert all(c.dp * c.sp == 32 for c in result.candidates)


def test_a_candidates_changes_make_the_plan_it_shows(found):
    asked, result = found
    for candidate in result.candidates[:: max(1, len(result.candidates) // 12)]:
        plan = forecast_preset(preset(asked.name, *candidate.change))
        assert plan.tgs.estimate == pytest.approx(candidate.tgs)
        assert plan.memory.total_gib == pytest.approx(candidate.total_gib)
        assert (plan.sp, plan.checkpointing) == (candidate.sp, candidate.checkpointing)


def test_a_search_tries_thousands(found):
    asked, _ = found
    assert (
        search(replace(asked, hardware=replace(asked.hardware, num_gpus=64)), machine_of(asked)).num_tried
        > 1000
    )


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("llama2_70b_128k", ["hardware.num_gpus=16"]),
        ("llama2_7b_8k", ["training.accumulation=1"]),
        ("qwen3_30b_a3b_8k", []),
    ],
)
def test_what_a_search_passes_over_does_not_fit(name, sets):
    asked = preset(name, *sets)
    machine = machine_of(asked)
    fitting = [v for v in variants(asked) if search_module._fits(v, machine)]
    found = {tuple(candidate.change) for candidate in search(asked, machine).candidates}
    assert found == {tuple(search_module.assignments_of(variant)) for variant in fitting}


def test_no_variant_breaks_a_rule():
    assert all(not mesh_problems(variant) for variant in variants(preset("llama3_8b_8k")))


def test_a_search_without_constants_says_how_to_get_them():
    asked = preset()
    machine = machine_of(asked)
    with pytest.raises(TgsError, match="nothing to rank by") as caught:
        search(asked, Machine(machine.gpu, machine.link, None))
    assert "--calibrate" in caught.value.hint


def test_the_longest_sequence_fits_and_the_next_does_not():
    asked = preset("llama2_7b_8k")
    machine = machine_of(asked)
    longest = max_seq_len(asked, machine)
    assert longest.seq_len % 1024 == 0
    assert longest.best.verdict in ("fits", "tight")

    def fits(seq_len):
        at = replace(asked, workload=replace(asked.workload, seq_len=seq_len))
        return bool(search(at, machine).candidates)

    assert fits(longest.seq_len)
    assert not fits(longest.seq_len + 1024)


def test_a_model_that_fits_at_no_length_is_an_error():
    asked = preset(
        "llama2_70b_8k", "hardware.num_gpus=1", "hardware.gpus_per_node=1", "model.num_layers=2000"
    )
    with pytest.raises(TgsError, match="at any length") as caught:
        max_seq_len(asked, machine_of(asked))
    assert caught.value.exit_code == ExitCode.DOES_NOT_FIT


# Scaling


def test_scaling_costs_speed_and_saves_memory():
    asked = preset("llama2_70b_8k")
    points = scale(asked, find_system("fsdp2"), machine_of(asked), [8, 16, 32, 64, 512, 4096])
    memory = [point.total_gib for point in points]
    speeds = [point.tgs.estimate for point in points]
    assert memory == sorted(memory, reverse=True)
    assert speeds == sorted(speeds, reverse=True)
    fitting = [point for point in points if point.verdict != "out of memory"]
    assert fitting[0].efficiency == pytest.approx(1.0)
    assert all(point.efficiency < 1 for point in fitting[1:])
    assert all(point.sp * point.dp == point.num_gpus for point in points)


def test_a_slower_interconnect_scales_worse():
    asked = preset("llama2_70b_8k")
    slow, fast = (
        scale(asked, find_system("fsdp2"), machine_of(asked, link=link), [64])[0]
        for link in ("ethernet100", "xdr800")
    )
    assert slow.tgs.estimate < fast.tgs.estimate
    assert slow.network_share > fast.network_share


def test_the_plot_has_a_bar_for_each_number_of_gpus():
    asked = preset("llama2_70b_8k")
    points = scale(asked, find_system("fsdp2"), machine_of(asked), [8, 64])
    text = "\n".join(report.scale_lines(points))
    assert "out of memory" in text
    assert text.count("█") > 10
    assert text.count("░") > 10


# Advice


def test_advice_for_what_does_not_fit_is_one_change_that_fits():
    asked = preset("llama2_7b_8k", "training.checkpointing=none", "training.micro_batch=8")
    base = planned(asked)
    assert base.verdict == "out of memory"
    advice = advise(asked, base)
    assert advice[0].verdict == "fits"
    assert len(advice[0].change) == 1
    assert "smallest change that fits" in advice[0].why
    again = forecast_preset(
        preset("llama2_7b_8k", "training.checkpointing=none", "training.micro_batch=8", *advice[0].change)
    )
    assert again.verdict == "fits"
    assert again.memory.total_gib == pytest.approx(advice[0].total_gib)


def test_the_verdict_names_the_term_that_breaks_it():
    assert (
        "largest item is activations"
        in forecast_preset(preset("llama2_7b_32k", "training.checkpointing=none")).reason
    )
    big = forecast_preset(preset("llama2_70b_8k", "hardware.num_gpus=8"))
    assert (big.verdict, "model states" in big.reason) == ("out of memory", True)
    logits = forecast_preset(preset("llama2_7b_32k", "engine.loss_chunk_tokens=0", "workload.seq_len=512k"))
    assert (logits.memory.at, "largest item is logits and the head" in logits.reason) == ("loss", True)


def test_advice_on_speed_is_faster():
    asked = preset("llama2_70b_128k")
    base = planned(asked)
    advice = advise(asked, base)
    assert advice
    for item in advice:
        assert item.tgs_ratio == pytest.approx(item.tgs / base.tgs)
        found = forecast_preset(preset("llama2_70b_128k", *item.change))
        assert found.tgs.estimate == pytest.approx(item.tgs)


def test_assign_replaces_dotted_keys():
    changed = assign(preset(), {"engine.name": "deepspeed", "engine.offload": "all", "parallel.sp": 16})
    assert (changed.engine.name, changed.engine.offload, changed.parallel.sp) == ("deepspeed", "all", 16)


# The trace


@pytest.mark.parametrize(
    ("name", "mode"),
    [(n, m) for n in ("llama2_7b_128k", "llama2_70b_256k") for m in ("full", "selective", "none")],
)
def test_a_trace_takes_as_long_as_the_plan(name, mode):
    """With all-to-alls inside a node, and across nodes where hidden gathers share the cards."""
    asked = preset(name, f"training.checkpointing={mode}")
    numbers = planned(asked)
    document = json.loads(msgspec.json.encode(chrome_trace(numbers, asked.name, numbers.work.accumulation)))
    events = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in events)
    end_us = max(event["ts"] + event["dur"] for event in events)
    assert end_us == pytest.approx(1e6 * numbers.time.step_s, rel=1e-6)
    names = {event["name"] for event in events}
    assert {spans.ATTENTION, spans.A2A_PRE, spans.A2A_POST, spans.OPTIMIZER, spans.LOSS} <= names
    recomputed = any(name.startswith(spans.RECOMPUTE) for name in names)
    assert recomputed == (mode != "none")
    micro_steps = [event for event in events if event["name"].startswith("micro-step")]
    assert len(micro_steps) == numbers.work.accumulation == document["otherData"]["micro_steps"]


def test_a_hybrids_trace_shows_the_attention_that_each_layer_has():
    asked = preset("llama3_8b_8k", "model=qwen3_next_80b_a3b", "hardware.num_gpus=64")
    numbers = planned(asked)
    events = [e for e in chrome_trace(numbers, asked.name)["traceEvents"] if e["ph"] == "X"]
    forward = [e for e in events if e["name"].startswith(f"{spans.FORWARD} layer")]

    def inside(layer, name) -> list[float]:
        begin, end = layer["ts"], layer["ts"] + layer["dur"]
        return [e["dur"] for e in events if e["name"] == name and begin <= e["ts"] < end]

    kinds = [(len(inside(e, spans.ATTENTION)), len(inside(e, spans.LINEAR_ATTENTION))) for e in forward]
    assert kinds == [(0, 1), (0, 1), (0, 1), (1, 0)] * 12
    total = sum(e["dur"] for e in events if e["name"] == spans.LINEAR_ATTENTION)
    micro_step_s = numbers.time.items["linear_attention"] / numbers.work.accumulation
    assert total == pytest.approx(1e6 * micro_step_s)


def test_a_hybrids_trace_shows_the_all_to_alls_that_each_layer_has():
    """sp 8: linear layers trade 12,352 + 4,096 values a token, the others 8,192 + 4,096."""
    asked = preset("llama3_8b_8k", "model=qwen3_next_80b_a3b", "hardware.num_gpus=64", "parallel.sp=8")
    numbers = planned(asked)
    events = chrome_trace(numbers, asked.name)["traceEvents"]
    sent = [e["dur"] for e in events if e["name"] == spans.A2A_PRE][:48]
    assert [dur / sent[3] for dur in sent] == pytest.approx(([16448 / 12288] * 3 + [1]) * 12)
    whole = sum(e["dur"] for e in events if e["name"] in (spans.A2A_PRE, spans.A2A_POST))
    time = numbers.time.items
    both = (time["all_to_all_node"] + time["all_to_all_network"]) / numbers.work.accumulation
    assert whole == pytest.approx(1e6 * both)


def test_spans_of_a_track_do_not_overlap_but_nest():
    asked = preset("llama2_70b_256k")
    document = chrome_trace(planned(asked), asked.name)
    for track in (1, 2, 3):
        open_until: list[float] = []
        found = [e for e in document["traceEvents"] if e["ph"] == "X" and e["tid"] == track]
        for event in sorted(found, key=lambda e: (e["ts"], -e["dur"])):
            end = event["ts"] + event["dur"]
            while open_until and open_until[-1] <= event["ts"] * (1 + 1e-9):
                open_until.pop()
            assert not open_until or end <= open_until[-1] * (1 + 1e-9)
            open_until.append(end)


@pytest.mark.parametrize(("name", "gpus"), [("llama2_7b_8k", 4), ("yi_34b_8k", 14), ("llama3_8b_8k", 6)])
def test_max_seq_len_agrees_with_a_linear_scan_over_every_sp(name, gpus):
    """No longer multiple of 1,024 x sp fits in the next sixteenth, and what is found fits."""
    asked = preset(name, f"hardware.num_gpus={gpus}", "parallel.sp=1")
    machine = machine_of(asked)
    longest = max_seq_len(asked, machine).seq_len
    step = 1024 * math.lcm(*[v.parallel.sp for v in variants(search_module._at(asked, 1024 * gpus * 56))])

    def fits(length):
        at = search_module._at(asked, length)
        return any(
            search_module._fits(v, machine) for v in variants(at) if v.training.checkpointing == "full"
        )

    assert fits(longest)
    scan = range(longest // step * step + step, longest + longest // 16 + step, step)
    assert not any(fits(length) for length in itertools.islice(scan, 20))


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_chunks_reach_as_far_as_they_fit_and_farther_than_whole_sequences(gpus):
    """Without a ring, which takes no chunks; on 64 of these GPUs one of eight reaches farther still."""
    name = "llama3_8b_512k" if gpus < 64 else "llama2_70b_8k"
    gpu = "H100-SXM5-80GB" if gpus == 1 else "A100-SXM4-40GB"
    asked = preset(name, f"hardware.num_gpus={gpus}", f"parallel.sp={min(gpus, 8)}", f"hardware.gpu={gpu}")
    machine = machine_of(asked)
    longest = leanest_at_longest(asked, machine, lambda variant: variant.ring == 1)
    found, chunks = longest.workload.seq_len, longest.engine.sequence_chunks
    assert chunks >= math.ceil(found / (longest.parallel.sp * CHUNK_TOKENS)) > 1
    whole = leanest_at_longest(asked, machine, lambda v: v.ring == 1 and v.engine.sequence_chunks == 1)
    assert whole.workload.seq_len < found
    for sp in {variant.parallel.sp for variant in variants(asked)}:
        step = sp * 8192
        longer = search_module._at(asked, (found // step + 1) * step)
        of_sp = [v for v in variants(longer) if v.parallel.sp == sp and v.engine.sequence_chunks > 1]
        assert not any(search_module._fits(v, machine) for v in of_sp)
    best = max_seq_len(asked, machine)
    assert best.seq_len >= found
    if best.best.sequence_chunks > 1:
        assert f"engine.sequence_chunks={best.best.sequence_chunks}" in best.best.change
    assert (best.best.ring > 1) == (gpus == 64)


def test_yi_on_56_gpus_reaches_as_far_as_its_56_heads_allow():
    asked = preset("yi_34b_8k", "hardware.num_gpus=56", "parallel.sp=1")
    longest = max_seq_len(asked, machine_of(asked))
    assert longest.best.sp == 56
    assert longest.seq_len % 56 == 0
    assert longest.seq_len > 7 * 2**20


def test_a_search_ranks_a_tight_plan_by_what_it_has_for_certain():
    asked = preset("llama2_7b_32k")
    candidates = search(asked, machine_of(asked)).candidates
    assert [c.sure_tgs for c in candidates] == sorted((c.sure_tgs for c in candidates), reverse=True)
    tight = [c for c in candidates if c.verdict == "tight"]
    assert tight
    assert all(c.sure_tgs < c.tgs and 0.83 < c.card_share <= 1.0 for c in tight)


def test_following_advice_gives_what_was_promised():
    for name in ("llama3_8b_4l_512k", "llama2_7b_128k", "yi_34b_256k"):
        asked = preset(name)
        for item in advise(asked, planned(asked)):
            followed = planned(preset(name, *item.change))
            assert followed.memory.peak.total / GIB == pytest.approx(item.total_gib)
            assert followed.verdict == item.verdict
            if item.tgs is not None:
                assert followed.tgs == pytest.approx(item.tgs)


def test_two_changes_on_the_same_gpus_come_before_more_gpus():
    sets = ("hardware.gpu=A100-SXM4-40GB", "hardware.num_gpus=4", "workload.seq_len=64k", "parallel.sp=1")
    asked = preset("llama2_7b_32k", *sets, "engine.loss_chunk_tokens=2048")
    base = planned(asked)
    assert base.verdict == "out of memory"
    first = advise(asked, base)[0]
    assert not any("num_gpus" in change for change in first.change)
    assert first.verdict in ("fits", "tight")


def test_what_fits_in_chunks_alone_is_advised_with_all_that_they_need():
    asked = preset("llama3_8b_512k", "hardware.num_gpus=1", "parallel.sp=1")
    base = planned(asked)
    assert base.verdict == "out of memory"
    advised = advise(asked, base)[0]
    assert {"engine.sequence_chunks=8", "engine.activation_offload=true"} < set(advised.change)
    assert advised.verdict in ("fits", "tight")
    followed = planned(preset("llama3_8b_512k", "hardware.num_gpus=1", "parallel.sp=1", *advised.change))
    assert followed.memory.peak.total / GIB == pytest.approx(advised.total_gib)


def test_a_search_takes_long_sequences_in_chunks():
    sets = ["hardware.num_gpus=8", "parallel.sp=8", "workload.seq_len=4194304", "training.accumulation=1"]
    preset = presets.resolve("llama3_8b_8k", sets).preset
    found = [variant for variant in variants(preset) if variant.engine.sequence_chunks > 1]
    assert found and all(not mesh_problems(variant) for variant in found)
    by_sp = {sp: {v.engine.sequence_chunks for v in found if v.parallel.sp == sp} for sp in (1, 8)}
    assert by_sp == {1: {64}, 8: {8, 64}}, "a chunk that eight ranks share hides its keys at an eighth of it"
    assert all(f"engine.sequence_chunks={v.engine.sequence_chunks}" in assignments_of(v) for v in found)
    short = presets.resolve("llama3_8b_8k", []).preset
    assert all(variant.engine.sequence_chunks == 1 for variant in variants(short))


def test_a_price_says_what_a_billion_tokens_cost():
    from tgsbench import api

    document = api.forecast(preset("llama3_8b_32k"), price=2.5)
    assert document.cost.gpu_hours == pytest.approx(1e9 / document.tgs.estimate / 3600)
    assert document.cost.usd == pytest.approx(2.5 * document.cost.gpu_hours)
    assert api.forecast(preset("llama3_8b_32k")).cost.usd is None
    asked = preset("llama3_8b_32k")
    best = search(asked, api.planned_machine(asked, price=2.5)).candidates[0]
    assert best.cost.usd == pytest.approx(2.5 * 1e9 / best.tgs / 3600)


def test_a_reference_preset_shows_its_published_rows_beside_plans_for_their_systems():
    from tgsbench import api

    notes = api.forecast(preset("yi_34b_8k")).notes
    assert any("published for xtuner: 485.1; planned for it here: 485" in note for note in notes), notes
    assert any("--link" in note for note in notes)
    assert not any("published" in note for note in api.forecast(preset("yi_34b_8k"), gpu="B200").notes)
