"""`tgsbench verify`: run a shrunken preset several times on CPU ranks and judge what its ranks saw.

Each engine runs four times: on the shrunken mesh, on one rank (a yardstick of its loss and gradients), one
step in bf16 (in what type are gradients reduced?), and on the mesh once more. A small Llama in fp64, written
apart from all of it, says what the steps should give. Ranks are always fresh processes, forks of two that
import torch once: imports would take most of the time.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import preflight
from tgsbench.launch.evidence_runs import EvidenceRun, Runs, Say, WantedRun, gather
from tgsbench.launch.rehearse import shrunken
from tgsbench.launch.watch import StopSignals
from tgsbench.metrics import verification
from tgsbench.presets.fp8 import MULTIPLE
from tgsbench.schema.preset import Measure, ModelShape, Parallel, Preset
from tgsbench.schema.verify import Check, CheckName, Verification
from tgsbench.system.scratch import scratch_folder
from tgsbench.systems import availability, registry, support
from tgsbench.systems.fsdp_units import is_sharded_by_fsdp
from tgsbench.systems.kv_hops import kv_nodes, with_hops_of
from tgsbench.systems.whole_layers import head_parts, most_attention_calls, most_parts, with_parts_of

NUM_STEPS = 20
_SEQ_LEN = 384
"""Several of Alpaca's documents a pack. At 512 the oracle's attention alone took 1.8 times as long."""
_HEAD_DIM = 16
"""At 8, one key that is seen too early moves an earlier loss by less than the last bit of their sum."""
_LR = 1e-3
"""At 2e-5 half of every update moved the loss of 20 steps by less than 1e-5: engines could part unseen."""
_CLIP_NORM = 1e-4
"""So far down a gradient's numbers are near AdamW's epsilon, 1e-8, and an update is as exact as its gradient.

Far above epsilon the first update is the sign of each number whatever its size: what fp32 rounds in the
smallest ones (2e-6 of a gradient's norm) turned signs, moved updates by 2e-4 and later norms by 1.3e-6
(qwen3_8b_128k; 1e-7 now). Nor would an update then tell a gradient that is too large by a factor.
"""
_WEIGHT_DECAY = 0.1
_KV_HEADS_PER_CALL = 2
"""With one KV head in an attention call, heads that are dealt in a wrong order could not be told."""
_VOCAB_SIZE = 512
"""At 2,048, which a rehearsal keeps, the loss would take most of a step."""
_CHUNK_TOKENS = 80
"""Divides no shard of 384, 192 or 96 tokens: the loss has several chunks, the last one shorter."""
_MLP_RATIO = 1.25
"""Not 1, so that no matrix can stand for another. Real ones of 2.75 to 3.5 took most products of a step."""
_OF_ONE_ENGINE: tuple[CheckName, ...] = (
    "oracle", "update", "parity", "labels", "tokens", "all_to_all", "reduction", "mask", "causality",
    "determinism",
)  # fmt: skip
MESH, ALONE, AGAIN, IN_BF16, ORACLE = "mesh", "one-rank", "again", "bf16", "oracle"
PLAIN = "plain"
"""The first step on the mesh with plain products, where the preset's run in FP8."""


def small_preset(preset: Preset) -> Preset:
    """The preset's shape on few CPU ranks in fp32: sp > 1, dp > 1 and KV heads fewer than sp where they were.

    Fewer KV heads than sp become 2 at sp 4, since copies of a single head cannot be put in a wrong order. So
    does a ring, which has two members then, or four where all of sp is one.
    Documents have Alpaca's lengths, so that a short pack holds several.
    """
    has_fewer = preset.ring > 1 or preset.model.num_kv_heads < preset.parallel.sp
    sp = min(preset.parallel.sp, 4 if has_fewer else 2)
    world = sp * min(2, preset.dp)
    head_dim = max(_HEAD_DIM, MULTIPLE[preset.training.fp8_recipe]) if preset.linear else _HEAD_DIM
    small = shrunken(preset, sp, world, "cpu", _SEQ_LEN // sp, head_dim, _KV_HEADS_PER_CALL)
    if (calls := min(most_attention_calls(preset), most_parts(small))) > 1:
        small = shrunken(preset, sp, world, "cpu", _SEQ_LEN // sp, head_dim, _KV_HEADS_PER_CALL * calls)
    small, training = with_hops_of(preset, with_parts_of(preset, small)), small.training
    return replace(
        small,
        profile="",
        model=_narrow(small.model),
        workload=replace(
            small.workload, corpus="lengths", lengths="", tokenizer="", labels="auto", long_documents="split"
        ),
        engine=replace(small.engine, loss_chunk_tokens=min(small.engine.loss_chunk_tokens, _CHUNK_TOKENS)),
        training=replace(
            training,
            compute_dtype="float32",
            routing="learned",
            micro_batch=min(2, training.micro_batch),
            lr=_LR,
            clip_norm=_CLIP_NORM,
            weight_decay=_WEIGHT_DECAY,
        ),
        measure=replace(small.measure, steps=NUM_STEPS, warmup=0),
    )


def _narrow(shape: ModelShape) -> ModelShape:
    """A smaller vocabulary and dense MLP, its width a multiple of 32 as scaled products take it."""
    intermediate = math.ceil(shape.hidden_size * _MLP_RATIO / 32) * 32
    return replace(
        shape,
        vocab_size=min(shape.vocab_size, _VOCAB_SIZE),
        intermediate_size=min(shape.intermediate_size, intermediate),
    )


def one_rank(small: Preset) -> Preset:
    """The first step of the same training on one rank, all its packs in one micro-batch.

    How many packs are drawn depends on warm-up and steps together, so that both runs read the same.
    """
    return replace(
        small,
        hardware=replace(small.hardware, num_gpus=1, gpus_per_node=1),
        parallel=Parallel(),
        engine=small.engine.on_one_rank(),
        training=replace(small.training, accumulation=1, micro_batch=small.packs_per_step),
        measure=_first_step(small),
    )


def plain_products(small: Preset) -> Preset:
    """The same training without FP8, for parity.

    Rounded to FP8, what differs in a last bit does so in a few percent of a value, and each further product
    spreads it: weights moved by 1e-7 move gradients of one rank by 5e-2 (llama2_70b_8k), parts of heads and
    chunks of the sequence, which sum in another order, by 4e-2.
    """
    return replace(small, training=replace(small.training, linear="plain"))


def in_bf16(small: Preset) -> Preset:
    """The first step of the same training with bf16 compute, as it is measured."""
    training = replace(small.training, compute_dtype="bfloat16")
    return replace(small, training=training, measure=_first_step(small))


def _first_step(small: Preset) -> Measure:
    return replace(small.measure, steps=1, warmup=small.measure.warmup + small.measure.steps - 1)


def require(small: Preset) -> None:
    """Raise TgsError when this machine, or the engine, cannot do what verifying takes."""
    name = small.engine.name
    if small.is_external:
        raise TgsError(
            f"engine {name} runs as it is, in an environment of its own: verify cannot look into its ranks",
            hint=" or ".join(f"--engine {native}" for native in registry.native_names()),
            exit_code=ExitCode.UNSUPPORTED,
        )
    support.check(small)
    preflight.check_packages(small)
    problem = preflight.machine_problem(small, preflight.this_machine(), small.world_size)
    if problem:
        raise TgsError(
            f"verifying {small.name} does not fit this machine: {problem}",
            hint="free some memory; a smaller parallel.sp takes fewer ranks",
            exit_code=ExitCode.DOES_NOT_FIT,
        )


def peer_of(preset: Preset) -> str:
    """The other native engine if it is installed and trains such models, else nothing."""
    other = _other(preset.engine.name)
    families, options = registry.find_engine(other).families, registry.find_engine(other).options
    if preset.linear and not options.has_fp8:
        return ""
    if families and preset.model.family not in families:
        return ""
    return "" if availability.missing_packages(other) else other


def _other(engine: str) -> str:
    return next(name for name in registry.native_names() if name != engine)


def verify(wanted: Sequence[Preset], peer: Preset | None, say: Say) -> Verification:
    """Verify each shrunken preset, one an engine, and compare every pair; `peer` is compared only.

    Raises TgsError when interrupted, or when a rank refuses to start at all.
    """
    begin_s = time.monotonic()
    small = wanted[0]
    checks: list[Check] = []
    with scratch_folder("tgsbench-verify-") as folder, StopSignals() as stop:
        say(f"{' and '.join(_engines(wanted, peer))}: importing torch and the engine")
        seen = gather(folder, _runs_of(wanted, peer), stop, say)
        for preset in wanted:
            checks += _told(_engine_checks(preset, seen), say)
        on_mesh = {engine: seen[_name(engine, MESH)] for engine in _engines(wanted, peer)}
        checks += _told(_pair_checks(on_mesh), say)
    counts = {status: sum(c.status == status for c in checks) for status in ("passed", "failed", "skipped")}
    return Verification(
        preset=small.rehearsal_of,
        engines=[preset.engine.name for preset in wanted],
        passed=not counts["failed"],
        num_passed=counts["passed"],
        num_failed=counts["failed"],
        num_skipped=counts["skipped"],
        checks=checks,
        what=describe(small),
        world_size=small.world_size,
        dp=small.dp,
        sp=small.parallel.sp,
        seq_len=small.workload.seq_len,
        num_steps=small.measure.steps,
        document_mask=small.workload.document_mask,
        unseen=unseen(),
        wall_s=time.monotonic() - begin_s,
        versions=seen[_name(small.engine.name, MESH)].versions,
    )


def describe(small: Preset) -> str:
    """The shrunken model and mesh in one line."""
    model = small.model
    mask = "document mask" if small.workload.document_mask else "no document mask"
    products = f" with {small.linear} products emulated" if small.linear else ""
    return (
        f"{model.num_layers} layers, {model.num_query_heads}:{model.num_kv_heads} heads, "
        f"length {small.workload.seq_len}, sp {small.parallel.sp}{_sharing(small)} x dp {small.dp} "
        f"on CPU ranks, fp32{products}, checkpointing {small.training.checkpointing}, {mask}"
        + "".join(f", {option}" for option in _options(small))
    )


def _sharing(small: Preset) -> str:
    return f" ({small.sharing})" if small.sharing else ""


def _options(small: Preset) -> list[str]:
    """What else the preset asks of the training, in words."""
    engine, nodes, parts = small.engine, kv_nodes(small), head_parts(small)
    words = {
        f"keys and values in two hops over {nodes} made-up nodes": nodes > 1,
        f"heads in {parts} parts": parts > 1,
        "the MLP in tiles": engine.tiled_mlp,
        "layers' inputs on the host": engine.activation_offload,
        "optimizer states on the host": engine.offload == "optimizer",
        "parameters and optimizer states on the host": engine.offload == "all",
        # On the mesh all is fp32; the one step in bf16 shows it.
        "gradients summed in bfloat16 in the bf16 step": small.training.reduce_dtype == "bfloat16",
    }
    return [text for text, is_asked in words.items() if is_asked]


def unseen() -> str:
    """What no verification can see, in one sentence."""
    return (
        "not seen: a GPU's kernels and streams, bf16 arithmetic, what fp32 rounds in products and attention "
        "(taken in fp64 here), torch.compile and Liger (left out here), "
        "other lengths and layer counts, speed"
    )


def _engines(wanted: Sequence[Preset], peer: Preset | None) -> list[str]:
    return [preset.engine.name for preset in (*wanted, *([peer] if peer else []))]


def _name(engine: str, purpose: str) -> str:
    return f"{engine}-{purpose}"


def _runs_of(wanted: Sequence[Preset], peer: Preset | None) -> list[Runs]:
    """Two processes side by side: an engine's runs on the mesh share nothing, not even a hash seed.

    The peer follows in the second, which is done when the first still has the oracle to ask.
    """
    first: dict[str, WantedRun] = {}
    second: dict[str, WantedRun] = {}
    for preset in wanted:
        engine = preset.engine.name
        first[_name(engine, MESH)] = WantedRun(preset, "evidence")
        second[_name(engine, AGAIN)] = WantedRun(preset, "steps")
        if preset.world_size > 1:
            second[_name(engine, IN_BF16)] = WantedRun(in_bf16(preset), "steps")
            second[_name(engine, ALONE)] = WantedRun(one_rank(plain_products(preset)), "steps")
        if preset.world_size > 1 and preset.linear:
            plain = replace(plain_products(preset), measure=_first_step(preset))
            second[_name(engine, PLAIN)] = WantedRun(plain, "steps")
        first[_name(engine, ORACLE)] = WantedRun(preset, "oracle", follows=_name(engine, MESH))
    if peer is not None:
        second[_name(peer.engine.name, MESH)] = WantedRun(peer, "steps")
    return [first, second]


def _told(checks: list[Check], say: Say) -> list[Check]:
    """The same checks, each said in one line."""
    for check in checks:
        say(f"  {check.status}: {check.name} {check.measured}".rstrip())
    return checks


def _engine_checks(preset: Preset, seen: dict[str, EvidenceRun]) -> list[Check]:
    """All checks that need one engine alone."""
    name = preset.engine.name
    mesh = seen[_name(name, MESH)]
    if mesh.problem:
        rings: tuple[CheckName, ...] = ("ring",) if preset.ring > 1 else ()
        experts: tuple[CheckName, ...] = ("experts",) if preset.parallel.ep > 1 else ()
        hops: tuple[CheckName, ...] = ("kv_hops",) if kv_nodes(preset) > 1 else ()
        shards: tuple[CheckName, ...] = ("shards",) if is_sharded_by_fsdp(preset) else ()
        wanted = (*_OF_ONE_ENGINE, *rings, *experts, *hops, *shards)
        return [verification.not_run(check, name, mesh.problem) for check in wanted]
    return [
        *_against(preset, seen, ORACLE, ("oracle", "update"), _oracle),
        *_against(preset, seen, ALONE, ("parity",), _parity, PLAIN if preset.linear else MESH),
        verification.labels(preset, mesh.ranks),
        verification.tokens(preset, mesh.ranks),
        verification.all_to_alls(preset, mesh.ranks),
        *([verification.ring_sends(preset, mesh.ranks)] if preset.ring > 1 else []),
        *([verification.expert_exchanges(preset, mesh.ranks)] if preset.parallel.ep > 1 else []),
        *([verification.kv_hops(preset, mesh.ranks)] if kv_nodes(preset) > 1 else []),
        *([verification.shards(preset, mesh.ranks)] if is_sharded_by_fsdp(preset) else []),
        *_against(preset, seen, IN_BF16, ("reduction",), _reduction),
        verification.mask(preset, mesh.ranks),
        verification.causality(preset, mesh.ranks),
        *_against(preset, seen, AGAIN, ("determinism",), _determinism),
    ]


def _against(
    preset: Preset,
    seen: dict[str, EvidenceRun],
    purpose: str,
    names: Sequence[CheckName],
    judge: Callable[[Preset, EvidenceRun, EvidenceRun], list[Check]],
    of_mesh: str = MESH,
) -> list[Check]:
    """Checks of a run on the mesh against another run; skipped without that, not run where one failed."""
    engine = preset.engine.name
    other = seen.get(_name(engine, purpose))
    if other is None:
        return [verification.skipped(name, engine, _ONE_RANK[purpose]) for name in names]
    mesh = seen[_name(engine, of_mesh)]
    if problem := other.problem or mesh.problem:
        return [verification.not_run(name, engine, problem) for name in names]
    return judge(preset, mesh, other)


_ONE_RANK = {
    ALONE: "one rank in this preset: nothing is shared out",
    IN_BF16: "one rank: no gradient is reduced",
}
"""Why a preset with one rank lacks a run."""


def _oracle(preset: Preset, mesh: EvidenceRun, truth: EvidenceRun) -> list[Check]:
    gradients = gradient_differences(mesh.gradients, truth.gradients)
    updates = gradient_differences(mesh.updates, truth.updates)
    return [
        verification.oracle(preset, gradients, truth.ranks[0], mesh.ranks),
        verification.update(preset, updates, truth.ranks[0]),
    ]


def _parity(preset: Preset, mesh: EvidenceRun, alone: EvidenceRun) -> list[Check]:
    differences = gradient_differences(mesh.gradients, alone.gradients)
    check = verification.parity(plain_products(preset), differences, alone.ranks, mesh.ranks)
    if preset.linear:
        check.note += f", both without {preset.linear}"
    return [check]


def _reduction(preset: Preset, mesh: EvidenceRun, in_bf16: EvidenceRun) -> list[Check]:
    return [verification.reduction(preset, in_bf16.ranks)]


def _determinism(preset: Preset, mesh: EvidenceRun, again: EvidenceRun) -> list[Check]:
    differences = gradient_differences(again.gradients, mesh.gradients)
    return [verification.determinism(preset, differences, mesh.ranks, again.ranks)]


def _pair_checks(on_mesh: dict[str, EvidenceRun]) -> list[Check]:
    """Every pair of engines; one engine alone has nothing to be compared with."""
    if len(on_mesh) == 1:
        (name,) = on_mesh
        both = f"--engine {name} --engine {_other(name)}"
        return [verification.skipped("engines", name, f"one engine ran; {both} compares")]
    return [_pair(on_mesh, *pair) for pair in itertools.combinations(on_mesh, 2)]


def _pair(on_mesh: dict[str, EvidenceRun], first: str, second: str) -> Check:
    pair = f"{first} : {second}"
    problem = on_mesh[first].problem or on_mesh[second].problem
    if problem:
        return verification.not_run("engines", pair, problem)
    return verification.engines(pair, on_mesh[first].ranks, on_mesh[second].ranks)


def gradient_differences(path: Path, reference: Path) -> dict[str, float]:
    """Relative norm of the difference of each gradient; infinite for one that is missing on a side."""
    import numpy as np

    with np.load(path, allow_pickle=False) as ours, np.load(reference, allow_pickle=False) as theirs:
        differences = dict.fromkeys(set(ours.files) ^ set(theirs.files), math.inf)
        for name in sorted(set(ours.files) & set(theirs.files)):
            a, b = (np.asarray(file[name], np.float64) for file in (ours, theirs))
            if a.shape != b.shape:
                differences[name] = math.inf
                continue
            gap, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
            differences[name] = gap / norm if norm else (math.inf if gap else 0.0)
    return differences
