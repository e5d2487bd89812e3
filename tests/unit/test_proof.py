"""What `tgsbench verify` makes of what ranks saw, and the presets that it runs."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.cli.verify import peer
from tgsbench.launch.evidence_runs import EvidenceRun, _blame_the_first
from tgsbench.launch.verify import _runs_of, describe, one_rank, small_preset
from tgsbench.metrics import verification
from tgsbench.metrics.integrity import expected_expert_exchanges
from tgsbench.presets.validate import mesh_problems
from tgsbench.report.verify import TITLES
from tgsbench.schema.run import LauncherReport
from tgsbench.schema.verify import CheckName, Evidence, MaskProbe, ShardRecord
from tgsbench.store import run_dir
from tgsbench.systems.whole_layers import most_attention_calls


def cut(tokens: str, **values) -> ShardRecord:
    counts = {"num_tokens": 8, "num_labels": 4, "border": 7}
    return ShardRecord(**{"where": tokens, "tokens": tokens, "labels": f"of {tokens}", **counts, **values})


PRESET = small_preset(presets.resolve("tiny_cpu").preset)
DEMANDED = [cut("a", is_inner=True), cut("b")]


def told(*cuts: ShardRecord) -> list[Evidence]:
    """Two ranks that were fed these, and count 8 tokens each."""
    first = Evidence(rank=0, demanded=DEMANDED, cuts=[cuts[0]], tokens=[8])
    return [first, Evidence(rank=1, cuts=list(cuts[1:]), tokens=[8])]


def test_runs_that_never_began_say_which_one_failed_before_them(tmp_path):
    made = {name: run_dir.create(tmp_path, PRESET, name) for name in ("again", "bf16", "one-rank")}
    for name in ("again", "bf16"):
        made[name].write("launcher.json", LauncherReport())
    problems = {"again": "", "bf16": "exception: rank 2", "one-rank": "vanished: no rank came up"}
    seen = {name: EvidenceRun(problem=problem) for name, problem in problems.items()}
    _blame_the_first(list(seen), made, seen)
    assert [run.problem for run in seen.values()] == [
        "", "exception: rank 2", "not started, since bf16 before it failed",
    ]  # fmt: skip


def test_shards_that_are_fed_once_pass():
    ranks = told(cut("a"), cut("b"))
    assert verification.tokens(PRESET, ranks).status == verification.labels(PRESET, ranks).status == "passed"
    assert verification.tokens(PRESET, ranks).value == 16


def test_a_target_lost_at_a_border_is_named_though_the_count_agrees():
    check = verification.labels(PRESET, told(cut("a", border=-100), cut("b")))
    assert check.status == "failed"
    assert check.value == check.limit
    assert check.worst == "a"
    assert "0 of 1 targets at shard borders kept" in check.note


def test_a_shard_fed_twice_is_named_and_counted_once():
    check = verification.tokens(PRESET, told(cut("a"), cut("a", where="rank 1, step 0")))
    assert (check.status, check.value, check.limit) == ("failed", 8, 16)
    assert check.worst == "rank 1, step 0: again what a had and 1 more"


def test_tokens_that_the_trainer_counts_twice_fail():
    ranks = told(cut("a"), cut("b"))
    ranks[1].tokens = [16]
    check = verification.tokens(PRESET, ranks)
    assert (check.status, check.worst) == ("failed", "the trainer counts 24 tokens for TGS")


def test_shards_that_are_alike_may_be_fed_as_often_as_they_are_demanded():
    """Padding alone fills several shards of a short pack."""
    padding = [cut("0", num_tokens=0), cut("0", num_tokens=0)]
    ranks = [Evidence(rank=0, demanded=padding, cuts=padding, tokens=[0])]
    assert verification.tokens(PRESET, ranks).status == "passed"
    ranks = [Evidence(rank=0, demanded=padding, cuts=[*padding, padding[0]], tokens=[0])]
    assert verification.tokens(PRESET, ranks).status == "failed"


def test_tokens_of_no_pack_fail():
    assert verification.tokens(PRESET, told(cut("a"), cut("x"))).status == "failed"


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e-3])
def test_parity_fails_above_the_bound_and_where_nothing_can_be_compared(value):
    alone = many = [Evidence(rank=0, num_labels=[4], loss_sums=[8.0])]
    check = verification.parity(PRESET, {"p": 0.0, "q": value}, alone, many)
    assert (check.status, check.worst) == ("failed", "gradient of q")
    assert verification.parity(PRESET, {"p": 0.0, "q": 1e-7}, alone, many).status == "passed"


def test_a_loss_that_is_no_number_fails():
    first, second = ([Evidence(rank=0, num_labels=[4], loss_sums=[s])] for s in (8.0, math.nan))
    assert verification.engines("a : b", first, second).status == "failed"
    assert verification.engines("a : b", first, first).status == "passed"


def test_one_bit_between_two_runs_fails():
    first, again = ([Evidence(rank=0, loss_sums=[s], grad_norms=[1.0])] for s in (8.0, math.nextafter(8, 9)))
    check = verification.determinism(PRESET, {}, first, again)
    assert (check.status, check.worst) == ("failed", "loss_sum of rank 0, step 0")


def test_a_mask_check_whose_change_reached_nothing_is_no_pass():
    def leaks(others_after: float, own_after: float) -> list[Evidence]:
        leak = MaskProbe(changed="d", others=5.0, others_after=others_after, own=3.0, own_after=own_after)
        return [Evidence(rank=0, leak=leak)]

    assert verification.mask(PRESET, leaks(5.0, 3.1)).status == "passed"
    assert verification.mask(PRESET, leaks(5.1, 3.1)).status == "failed"
    assert verification.mask(PRESET, leaks(5.0, 3.0)).status == "failed"
    assert verification.mask(PRESET, [Evidence(rank=0)]).status == "skipped"


def test_every_step_of_every_rank_must_send_what_the_shapes_demand():
    wanted = verification.expected_all_to_alls(PRESET)
    assert wanted[0] > 0
    right, wrong = Evidence(rank=0, all_to_alls=[wanted]), Evidence(rank=1, all_to_alls=[(0, 0)])
    assert verification.all_to_alls(PRESET, [right]).status == "passed"
    assert verification.all_to_alls(PRESET, [right, wrong]).worst == "rank 1, step 0"


@pytest.mark.parametrize("name", presets.list_presets())
def test_every_preset_is_shrunken_with_what_could_go_wrong_kept(name):
    full = presets.resolve(name).preset
    small = small_preset(full)
    assert mesh_problems(small) == mesh_problems(one_rank(small)) == []
    assert (small.parallel.sp > 1, small.dp > 1) == (full.parallel.sp > 1, full.dp > 1)
    assert small.training.checkpointing == full.training.checkpointing
    assert small.workload.document_mask == full.workload.document_mask
    assert one_rank(small).tokens_per_step == small.tokens_per_step
    assert small.local_seq_len % small.engine.loss_chunk_tokens, "the loss has a chunk that is shorter"
    if full.model.experts is None:
        hidden = small.model.hidden_size
        assert hidden < small.model.intermediate_size <= 2 * hidden, "no matrix can stand for another"
    if full.model.num_kv_heads < full.parallel.sp:
        assert 1 < small.model.num_kv_heads < small.parallel.sp
    ratio = full.model.num_query_heads // full.model.num_kv_heads
    assert (small.model.num_query_heads // small.model.num_kv_heads) % ratio == 0


@pytest.mark.parametrize("name", ["tiny_cpu", "llama2_7b_8k", "llama3_8b_32k", "qwen3_8b_32k"])
def test_each_attention_call_of_a_verification_has_two_kv_heads(name):
    small = small_preset(presets.resolve(name).preset)
    per_rank = small.model.num_kv_heads // small.parallel.sp
    assert per_rank // most_attention_calls(small) == 2
    other = small_preset(presets.resolve(name, ["engine.name=deepspeed"]).preset)
    assert other.model == small.model, "engines are compared on one model"


def test_the_other_engine_is_left_out_where_it_cannot_do_what_the_preset_asks(capsys):
    pytest.importorskip("deepspeed")
    assert peer("tiny_cpu", (), PRESET).engine.name == "deepspeed"
    assert peer("tiny_cpu", ("engine.compile=true",), PRESET) is None
    assert "not compared with deepspeed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sets", "sp", "ring", "copies"),
    [
        (["parallel.ring=8"], 4, 2, 1),
        (["parallel.ring=64", "workload.seq_len=1M"], 4, 4, 1),
        (["parallel.shard=8"], 4, 1, 2),
        (["parallel.ring=2", "parallel.shard=32", "engine.zero_stage=1"], 4, 2, 2),
    ],
)
def test_a_verification_keeps_rings_copies_and_stages(sets, sp, ring, copies):
    preset = presets.resolve("llama2_70b_1M", sets).preset
    small = small_preset(preset)
    assert (small.parallel.sp, small.ring, small.world_size // small.shard) == (sp, ring, copies)
    assert small.engine.zero_stage == preset.engine.zero_stage
    assert mesh_problems(small) == mesh_problems(one_rank(small)) == []


def test_a_ring_message_that_is_missing_is_named_by_rank_and_step():
    small = small_preset(presets.resolve("tiny_cpu", ["parallel.ring=2"]).preset)
    calls, num_bytes = verification.expected_ring_sends(small)
    right, wrong = (Evidence(rank=r, ring_sends=[(calls - r, num_bytes)]) for r in (0, 1))
    assert calls > 0
    assert verification.ring_sends(small, [right]).status == "passed"
    assert verification.ring_sends(small, [right, wrong]).worst == "rank 1, step 0"


def test_tokens_that_go_to_no_expert_are_named_by_their_bytes_and_a_missing_call_by_its_rank():
    small = small_preset(presets.resolve("qwen3_30b_a3b_8k", ["parallel.ep=8"]).preset)
    assert small.parallel.ep == 2 and mesh_problems(small) == mesh_problems(one_rank(small)) == []
    calls, sent = expected_expert_exchanges(small)

    def judged(*seen):
        ranks = [Evidence(rank=rank, expert_exchanges=[one]) for rank, one in enumerate(seen)]
        return verification.expert_exchanges(small, ranks)

    assert calls > 0
    assert judged((calls, sent + 8), (calls, sent - 8)).status == "passed"  # a router loads ranks unevenly
    assert judged((calls, sent), (calls, sent - 8)).status == "failed"
    assert judged((calls, sent), (calls - 1, sent)).worst == "rank 1, step 0"


def test_sums_of_gradients_are_in_what_the_preset_names():
    small = small_preset(presets.resolve("tiny_cpu", ["training.reduce_dtype=bfloat16"]).preset)
    seen = Evidence(rank=0, reduced=["bfloat16"])
    assert verification.reduction(small, [seen]).status == "passed"
    assert verification.reduction(PRESET, [seen]).status == "failed"


def test_fp8_has_bounds_of_its_own_and_gradients_too_near_to_fp64_are_no_fp8():
    small = small_preset(presets.resolve("tiny_cpu", ["training.linear=fp8"]).preset)
    truth = Evidence(rank=0, loss_sums=[2.0], num_labels=[1], grad_norms=[1.0])
    seen = Evidence(rank=0, loss_sums=[2.004], num_labels=[1], grad_norms=[1.02])
    found = {gap: verification.oracle(small, {"q_proj": gap}, truth, [seen]) for gap in (0.5, 0.09, 1e-7)}
    assert [check.status for check in found.values()] == ["failed", "passed", "failed"]
    assert "no product ran in FP8 rowwise" in found[1e-7].worst
    assert verification.oracle(PRESET, {"q_proj": 0.09}, truth, [seen]).status == "failed"


def test_parity_of_fp8_is_asked_of_plain_products_on_both_sides():
    small = small_preset(presets.resolve("tiny_cpu", ["training.linear=fp8"]).preset)
    runs = {name: run.preset for each in _runs_of([small], None) for name, run in each.items()}
    assert not runs["fsdp2-plain"].linear and not runs["fsdp2-one-rank"].linear
    assert runs["fsdp2-mesh"].linear == runs["fsdp2-again"].linear == "FP8 rowwise"
    assert replace(runs["fsdp2-plain"], training=small.training, measure=small.measure) == small
    assert "fsdp2-plain" not in {name for each in _runs_of([PRESET], None) for name in each}


@pytest.mark.parametrize(("chunks", "recipe"), [(8, "rowwise"), (8, "mxfp8"), (8, "")])
def test_chunks_of_a_verification_have_tokens_that_fp8_takes(chunks, recipe):
    sets = [f"engine.sequence_chunks={chunks}", "parallel.sp=16", "hardware.num_gpus=16"]
    sets += ["hardware.gpu=B200-SXM-180GB", "workload.seq_len=256k"]
    sets += ["training.linear=fp8", f"training.fp8_recipe={recipe}"] if recipe else []
    small = small_preset(presets.resolve("llama2_70b_8k", sets).preset)
    assert small.engine.sequence_chunks == (3 if recipe else 4)


@pytest.mark.parametrize(("recipe", "may_move"), [("rowwise", 0), ("mxfp8", 0), ("tensorwise", 1e-3)])
def test_only_a_scale_of_the_whole_tensor_lets_later_tokens_move_earlier_ones(recipe, may_move):
    sets = ["training.linear=fp8", f"training.fp8_recipe={recipe}", "hardware.gpu=B200-SXM-180GB"]
    small = small_preset(presets.resolve("llama3_8b_8k", sets).preset)
    assert verification.bounds(small).causality == may_move


@pytest.mark.parametrize(
    ("name", "after", "status"),
    [
        ("gpt_oss_20b_8k", 1 + 8e-8, "passed"),
        ("gpt_oss_20b_8k", 1 + 2e-6, "failed"),
        ("qwen3_8b_8k", 1 + 8e-8, "failed"),
    ],
    ids=["rounding of experts", "a later token seen", "no experts"],
)
def test_only_experts_let_later_tokens_move_the_rounding_of_earlier_ones(name, after, status):
    probe = MaskProbe(changed="later", others=1.0, others_after=after, own=3.0, own_after=3.3)
    seen = Evidence(rank=0, causality=probe)
    assert verification.causality(presets.resolve(name).preset, [seen]).status == status


def test_a_verification_in_blocks_has_heads_of_whole_blocks():
    sets = ["training.linear=fp8", "training.fp8_recipe=mxfp8", "hardware.gpu=B200-SXM-180GB"]
    small = small_preset(presets.resolve("llama3_8b_8k", sets).preset)
    assert small.model.head_dim == 32
    assert mesh_problems(small) == []


def test_a_verification_names_what_it_ran_with():
    sets = ["parallel.ring=1", "parallel.shard=32", "engine.zero_stage=2", "training.reduce_dtype=bfloat16"]
    sets += ["engine.activation_offload=true", "engine.tiled_mlp=true", "engine.offload=optimizer"]
    text = describe(small_preset(presets.resolve("llama2_70b_1M", sets).preset))
    for option in (
        "copies on 2 of 4 GPUs, ZeRO-2", "two hops over 2 made-up nodes", "the MLP in tiles",
        "layers' inputs on the host", "optimizer states on the host", "summed in bfloat16 in the bf16 step",
    ):  # fmt: skip
        assert option in text
    plain = describe(small_preset(presets.resolve("tiny_cpu").preset))
    assert plain.endswith("no document mask"), "nothing else was asked for"


def test_every_check_has_a_title():
    assert TITLES.keys() == set(get_args(CheckName))
