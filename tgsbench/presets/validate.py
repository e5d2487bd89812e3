"""Rules that join several values of a preset: the mesh equation, head limits, lengths."""

from __future__ import annotations

import math

from msgspec.structs import replace

from tgsbench.errors import nearest
from tgsbench.models.registry import family_names, find_family, is_family
from tgsbench.presets.data_names import CORPORA, corpus_kind
from tgsbench.presets.fp8 import fp8_problems
from tgsbench.presets.sequence_chunks import chunk_problems
from tgsbench.schema.preset import Preset, Training, Workload
from tgsbench.systems import registry


def mesh_problems(preset: Preset) -> list[str]:
    """Every rule the preset breaks, each with the nearest values that would do."""
    problems = [*_family_problems(preset.model.family), *_positive(preset)]
    problems += _training_problems(preset.training)
    if problems:
        return problems
    found = [
        *_sp_problems(preset),
        *_shard_problems(preset),
        *_expert_problems(preset),
        *_engine_problems(preset),
    ]
    return found or chunk_problems(preset) or fp8_problems(preset)


def valid_sp(preset: Preset) -> list[int]:
    """Sequence-parallel sizes this preset's world, heads, ring and length allow, ascending."""
    common = math.gcd(preset.world_size, preset.workload.seq_len)
    return [sp for sp in divisors(common) if not _sp_reasons(preset, sp)]


def valid_rings(preset: Preset) -> list[int]:
    """Numbers of ring members that this preset's sp, heads and length allow, ascending."""
    sp = preset.parallel.sp
    if not preset.may_ring or preset.world_size % sp or preset.workload.seq_len % sp:
        return [1]
    rings = (replace(preset, parallel=replace(preset.parallel, ring=ring)) for ring in divisors(sp))
    return [other.ring for other in rings if not _sp_reasons(other, sp)]


def _family_problems(name: str) -> list[str]:
    if is_family(name):
        return []
    return [f"model.family={name!r}: no such family; {nearest(name, family_names())}"]


def _positive(preset: Preset) -> list[str]:
    counts = {
        "model.num_layers": preset.model.num_layers,
        "model.hidden_size": preset.model.hidden_size,
        "model.intermediate_size": preset.model.intermediate_size,
        "model.num_query_heads": preset.model.num_query_heads,
        "model.num_kv_heads": preset.model.num_kv_heads,
        "model.head_dim": preset.model.head_dim,
        "model.vocab_size": preset.model.vocab_size,
        "hardware.num_gpus": preset.hardware.num_gpus,
        "hardware.gpus_per_node": preset.hardware.gpus_per_node,
        "workload.seq_len": preset.workload.seq_len,
        "workload.concat": preset.workload.concat,
        "workload.map_batch_size": preset.workload.map_batch_size,
        "workload.map_num_proc": preset.workload.map_num_proc,
        "parallel.sp": preset.parallel.sp,
        "parallel.ep": preset.parallel.ep,
        "training.micro_batch": preset.training.micro_batch,
        "measure.steps": preset.measure.steps,
        "measure.heartbeat_s": preset.measure.heartbeat_s,
        "measure.stall_s": preset.measure.stall_s,
    }
    may_be_zero = {
        "training.accumulation": preset.training.accumulation,
        "measure.warmup": preset.measure.warmup,
        "workload.seed": preset.workload.seed,
        "model.window": preset.model.window,
        "model.mtp_layers": preset.model.mtp_layers,
        "parallel.ring": preset.parallel.ring,
        "parallel.shard": preset.parallel.shard,
        "engine.loss_chunk_tokens": preset.engine.loss_chunk_tokens,
    }
    if problems := _too_large(counts | may_be_zero):
        return problems
    problems = [f"{key}={value}: must be at least 1" for key, value in counts.items() if value <= 0]
    problems += [f"{key}={value}: must not be negative" for key, value in may_be_zero.items() if value < 0]
    problems += _corpus_problems(preset.workload)
    if not problems and is_family(preset.model.family):
        problems += find_family(preset.model.family).problems(preset.model)
    return problems


def _corpus_problems(workload: Workload) -> list[str]:
    if workload.corpus == "file" and not workload.file:
        return ['workload.file: missing; corpus = "file" reads the data at that path']
    if corpus_kind(workload.corpus):
        return []
    known = [name for name in CORPORA if name != "file"]
    return [
        f"workload.corpus: {workload.corpus!r} is none of {', '.join(known)}, no path (./{workload.corpus}) "
        f"and no data set of the hub (NAME:SPLIT); {nearest(workload.corpus, known)}"
    ]


_LARGEST = {
    "model.num_layers": 100_000,
    "model.num_query_heads": 65_536,
    "model.num_kv_heads": 65_536,
    "model.mtp_layers": 1_000,
    "hardware.num_gpus": 1_000_000,
    "hardware.gpus_per_node": 1_000_000,
    "parallel.sp": 1_000_000,
    "parallel.ring": 1_000_000,
    "parallel.shard": 1_000_000,
    "parallel.ep": 1_000_000,
}
"""A hundred times what anybody trains with: loops over heads, ranks and layers end, figures stay finite."""
_LARGEST_OTHER = 2**50


def _too_large(counts: dict[str, float]) -> list[str]:
    limits = ((key, value, _LARGEST.get(key, _LARGEST_OTHER)) for key, value in counts.items())
    return [
        f"{key}: {_brief(value)} is out of bounds; at most {most:,}"
        for key, value, most in limits
        if abs(value) > most
    ]


def _brief(value: float) -> str:
    """A number for a message; one of hundreds of digits would be all of it."""
    return f"{value:,}" if abs(value) < 10**15 else "a number of more than 15 digits"


def _training_problems(training: Training) -> list[str]:
    """What the optimizer would refuse only after the ranks have built the model, or take without a word."""
    rules = {
        "lr": (training.lr >= 0, "must not be negative"),
        "beta1": (0 <= training.beta1 < 1, "must be at least 0 and below 1"),
        "beta2": (0 <= training.beta2 < 1, "must be at least 0 and below 1"),
        "weight_decay": (training.weight_decay >= 0, "must not be negative"),
        "clip_norm": (training.clip_norm > 0, "must be above 0; a large one never clips"),
        "lr_warmup_ratio": (0 <= training.lr_warmup_ratio <= 1, "must be from 0 to 1"),
    }
    return [
        f"training.{key}={getattr(training, key)}: {rule}"
        for key, (is_kept, rule) in rules.items()
        if not is_kept
    ]


def _sp_reasons(preset: Preset, sp: int) -> list[str]:
    heads, kv_heads = preset.model.num_query_heads, preset.model.num_kv_heads
    ring, reasons = replace(preset, parallel=replace(preset.parallel, sp=sp)).ring, []
    if preset.world_size % sp:
        reasons.append(f"dp · sp = world: {preset.world_size} GPUs are not divisible by {sp}")
        ring = preset.parallel.ring or 1  # no ring is chosen for a mesh that cannot be
    if sp % ring:
        return [*reasons, f"ulysses · ring = sp: {sp} is not divisible by parallel.ring={ring}"]
    ulysses = sp // ring
    of = f"{sp} / {ring}" if ring > 1 else f"{sp}"
    if heads % ulysses:
        reasons.append(f"{heads} query heads are not divisible by {of}")
    if kv_heads % ulysses and ulysses % kv_heads:
        reasons.append(f"{kv_heads} KV heads neither divide {of} nor are divisible by it")
    if (linear := preset.model.linear) is not None and linear.num_key_heads % ulysses:
        reasons.append(f"{linear.num_key_heads} key heads of linear attention are not divisible by {of}")
    if preset.workload.seq_len % sp:
        reasons.append(f"seq_len {preset.workload.seq_len} is not divisible by {sp}")
    elif ring > 1 and preset.workload.seq_len % (2 * ring):
        reasons.append(f"seq_len {preset.workload.seq_len} is not divisible by 2 · {ring} chunks of a ring")
    return reasons


def _sp_problems(preset: Preset) -> list[str]:
    sp = preset.parallel.sp
    reasons = _sp_reasons(preset, sp)
    if not reasons:
        return _ring_problems(preset)
    nearest = ", ".join(_two_nearest(valid_sp(preset), sp)) or _nearest_rings(preset)
    return [f"parallel.sp={sp}: {reason}; nearest: {nearest}" for reason in reasons]


def _two_nearest(values: list[int], wanted: int) -> list[str]:
    """The two values that are fewest times larger or smaller, ascending."""
    return list(map(str, sorted(sorted(values, key=lambda value: abs(math.log2(value / wanted)))[:2])))


def _nearest_rings(preset: Preset) -> str:
    """Where no sp goes with the ring that is asked for: rings that go with the sp."""
    rings = _two_nearest(valid_rings(preset), preset.parallel.ring) if preset.parallel.ring else []
    return f"parallel.ring={' or '.join(rings)}" if rings else "none"


def _ring_problems(preset: Preset) -> list[str]:
    """What a ring of more than one member does not go with."""
    if preset.ring == 1:
        return []
    named = f"parallel.ring={preset.ring}"
    if not preset.engine.has_ring:
        able = _engines_with("has_ring")
        return [f"{named}: engine {preset.engine.name} has no ring; nearest: 1, or --engine {able}"]
    if not preset.may_ring:
        layers = "layers with linear attention, which no ring splits"
        return [f"{named}: {preset.model.name} has {layers}; nearest: 1"]
    problems = []
    if preset.hardware.device == "cuda" and preset.training.compute_dtype != "bfloat16":
        problems.append(f'{named}: its GPU kernels take training.compute_dtype="bfloat16" alone')
    if preset.engine.kernel not in _RING_KERNELS:
        problems.append(
            f'engine.kernel="{preset.engine.kernel}": a ring runs torch\'s own flash attention; use "auto" '
            "or parallel.ring=1"
        )
    return problems


def _shard_problems(preset: Preset) -> list[str]:
    """Copies that the world does not hold, and engines that keep none."""
    problems, shard, world = [], preset.shard, preset.world_size
    if world % shard:
        nearest = ", ".join(_two_nearest(divisors(world), shard))
        problems.append(
            f"copies · shard = world: {world} GPUs are not divisible by parallel.shard={shard}; "
            f"nearest: {nearest}"
        )
    if preset.engine.has_copies:
        return problems
    if shard != world:
        problems.append(
            f"parallel.shard={shard}: engine {preset.engine.name} shares one copy over all {world} GPUs; "
            f"nearest: 0, or --engine {_engines_with('has_copies')}"
        )
    if preset.training.reduce_dtype != "float32":
        problems.append(
            f'training.reduce_dtype="{preset.training.reduce_dtype}": engine {preset.engine.name} takes no '
            f'such option; nearest: "float32", or --engine {_engines_with("has_copies")}'
        )
    return problems


def valid_ep(preset: Preset) -> list[int]:
    """Over how many ranks this preset's experts can be shared out, ascending."""
    experts = preset.model.experts
    if experts is None or not preset.engine.has_expert_parallel or preset.shard != preset.world_size:
        return [1]
    return divisors(math.gcd(experts.num, preset.world_size))


def _expert_problems(preset: Preset) -> list[str]:
    """What sharing out experts over ranks does not go with."""
    ep, experts = preset.parallel.ep, preset.model.experts
    named = f"parallel.ep={ep}"
    if ep == 1:
        return []
    if experts is None:
        return [f"{named}: {preset.model.name} has no experts; nearest: 1"]
    if not preset.engine.has_expert_parallel:
        nearest = f"nearest: 1, or --engine {_engines_with('has_expert_parallel')}"
        return [f"{named}: engine {preset.engine.name} runs all experts on every rank; {nearest}"]
    both = divisors(math.gcd(experts.num, preset.world_size))
    nearest = ", ".join(_two_nearest(both, ep))
    problems = []
    if experts.num % ep:
        problems.append(f"{named}: {experts.num} experts are not divisible by {ep}; nearest: {nearest}")
    if preset.world_size % ep:
        problems.append(f"{named}: {preset.world_size} GPUs are not divisible by {ep}; nearest: {nearest}")
    if preset.shard != preset.world_size:
        problems.append(
            f"{named}: experts that are shared out are sharded over all GPUs, without copies; "
            "nearest: parallel.shard=0, or parallel.ep=1"
        )
    if preset.engine.compile:
        problems.append(
            f"{named}: how many tokens come is known on the host alone, which no compiled layer waits for; "
            "nearest: engine.compile=false, or parallel.ep=1"
        )
    return problems


def _engines_with(ability: str) -> str:
    """Asked only for a message: it imports every engine, and looks for plug-ins."""
    return ", ".join(spec.name for spec in registry.engines() if getattr(spec.options, ability))


_RING_KERNELS = ("auto", "sdpa", "varlen")


def _engine_problems(preset: Preset) -> list[str]:
    engine = preset.engine
    rules = registry.find_engine(engine.name).rules
    problems = rules(preset) if rules else []
    if engine.activation_offload and preset.training.checkpointing == "none":
        problems.append('engine.activation_offload needs training.checkpointing="full" or "selective"')
    if preset.workload.document_mask and engine.kernel == "cudnn":
        problems.append('engine.kernel="cudnn" has no document mask; use "varlen", "flash2" or "auto"')
    return problems


def divisors(number: int) -> list[int]:
    """All numbers that divide this one, ascending."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})
