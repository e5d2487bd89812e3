"""Changes to a preset, tried one after another: what makes it fit, what makes it faster."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tgsbench.errors import TgsError
from tgsbench.planner.plan import Estimate, estimate
from tgsbench.planner.verdict import host_fits
from tgsbench.presets.sequence_chunks import fewest_chunks, most_chunks
from tgsbench.presets.validate import mesh_problems, valid_ep, valid_sp
from tgsbench.schema.forecast import Advice, Verdict
from tgsbench.schema.preset import Preset
from tgsbench.systems import registry
from tgsbench.systems.registry import system_of
from tgsbench.units import GIB, percent

_GPUS = "hardware.num_gpus"
_MIN_GAIN = 0.02
_MAX_FASTER = 3
Candidate = tuple[dict[str, Any], int, str]
"""Assignments, the effort they are, and what they do."""


class PresetChange(Struct, frozen=True):
    """One change: assignments, the preset they make, what it costs in effort (lower is smaller)."""

    sets: dict[str, Any]
    preset: Preset
    effort: int
    what: str


Known = list[tuple[PresetChange, Estimate]]
"""Changes with what they would give."""


def advise(preset: Preset, base: Estimate) -> list[Advice]:
    """The smallest change that fits when the preset does not, then what would be at least 2 % faster."""
    if base.verdict not in ("out of memory", "tight"):
        return _faster(base, _estimated(_quicker(preset), preset, base), set())
    known = changed_estimates(preset, base)
    advice = _remedies(preset, base, known)
    return advice + _faster(base, known, {tuple(a.change) for a in advice})


def changed_estimates(preset: Preset, base: Estimate) -> Known:
    """Every single change with its numbers, where they are known and a usual host holds what it offloads."""
    return _estimated(_candidates(preset), preset, base)


def _estimated(candidates: Iterable[Candidate], preset: Preset, base: Estimate) -> Known:
    tried = [(change, _try(change, base)) for change in _valid(candidates, preset)]
    return [(change, numbers) for change, numbers in tried if numbers is not None]


def smallest(fitting: Known) -> tuple[PresetChange, Estimate]:
    """The change of least effort; ties go to the faster one."""
    return min(fitting, key=lambda pair: (pair[0].effort, -(pair[1].tgs or 0.0)))


def assignments(change: PresetChange) -> list[str]:
    """A change as assignments for --set."""
    return [f"{key}={_text(value)}" for key, value in change.sets.items()]


def _valid(candidates: Iterable[Candidate], preset: Preset) -> Iterator[PresetChange]:
    """Those that change something and break no rule."""
    for sets, effort, what in candidates:
        changed = assign(preset, sets)
        if changed != preset and not mesh_problems(changed):
            yield PresetChange(sets, changed, effort, what)


def assign(preset: Preset, sets: dict[str, Any]) -> Preset:
    """A preset with dotted keys replaced."""
    tables: dict[str, dict[str, Any]] = {}
    for dotted, value in sets.items():
        table, _, key = dotted.partition(".")
        tables.setdefault(table, {})[key] = value
    engine = tables.pop("engine", {})
    if "name" in engine:
        preset = replace(preset, engine=registry.change_engine(preset.engine, engine["name"], engine))
    elif engine:
        preset = replace(preset, engine=replace(preset.engine, **engine))
    return replace(preset, **{t: replace(getattr(preset, t), **values) for t, values in tables.items()})


def _candidates(preset: Preset) -> Iterator[Candidate]:
    """Every change worth a try: what may be quicker, and what only saves memory."""
    yield from _quicker(preset)
    if preset.engine.loss_chunk_tokens == 0:
        yield {"engine.loss_chunk_tokens": 2048}, 0, "the logits exist a chunk at a time"
    yield {"engine.tiled_mlp": True}, 4, "the MLP in tiles of the sequence"
    yield {"engine.activation_offload": True}, 20, "checkpointed inputs in host memory"
    if (chunks := fewest_chunks(preset)) > preset.engine.sequence_chunks:
        yield {"engine.sequence_chunks": chunks}, 23, f"{chunks} chunks of the sequence through host memory"
    yield from _engine_advice(preset.engine.name)
    for factor in (2, 4, 8):
        more = preset.hardware.num_gpus * factor
        yield {_GPUS: more}, 30 + factor, f"{more} GPUs"


def _quicker(preset: Preset) -> Iterator[Candidate]:
    """Changes that may raise TGS on the same GPUs."""
    for mode in ("full", "selective", "none"):
        yield {"training.checkpointing": mode}, 1, f"{mode} activation checkpointing"
    if preset.training.micro_batch > 1:
        yield {"training.micro_batch": preset.training.micro_batch // 2}, 2, "half the micro-batch"
    yield {"training.micro_batch": preset.training.micro_batch * 2}, 2, "twice the micro-batch"
    for sp in valid_sp(preset):
        distance = abs(sp.bit_length() - preset.parallel.sp.bit_length())
        yield {"parallel.sp": sp}, 2 + distance, f"sequences over {sp} GPUs"
    for ep in valid_ep(preset):
        distance = abs(ep.bit_length() - preset.parallel.ep.bit_length())
        yield {"parallel.ep": ep}, 2 + distance, f"experts over {ep} GPUs"
    for kernel in ("flash3", "cudnn"):
        yield {"engine.kernel": kernel}, 3, f"attention kernel {kernel}"


def _engine_advice(engine: str) -> Iterator[Candidate]:
    """What the engine's own spec advises; of engines that advise nothing, what others offer."""
    own = [change for change in registry.find_engine(engine).advice if not change.from_others]
    for change in own:
        yield {f"engine.{key}": value for key, value in change.switches.items()}, change.effort, change.what
    if own:
        return
    for spec in registry.built_in().values():
        for change in spec.advice:
            if change.from_others:
                sets = {"engine.name": spec.name} | {f"engine.{k}": v for k, v in change.switches.items()}
                yield sets, change.effort, change.what


def _try(change: PresetChange, base: Estimate) -> Estimate | None:
    """The changed preset's numbers; None where the change has no known speed or overfills a usual host."""
    system = system_of(change.preset.engine) if "engine.name" in change.sets else base.work.system
    try:
        numbers = estimate(change.preset, base.machine, system)
    except TgsError:
        return None
    ranks = min(numbers.work.world, numbers.work.gpus_per_node)
    return numbers if host_fits(numbers.memory, ranks) else None


def _remedies(preset: Preset, base: Estimate, known: Known) -> list[Advice]:
    """The smallest change that fits: one on the same GPUs, two of them, all that saves, or more GPUs."""
    same = [(change, numbers) for change, numbers in known if _GPUS not in change.sets]
    is_out = base.verdict == "out of memory"
    fitting = _of(same, "fits")
    if not fitting:
        pairs = changed_pairs(preset, base)
        fitting = _of(pairs, "fits")
        if is_out:
            fitting = fitting or _of(same, "tight") or _of(pairs, "tight")
    if not fitting:
        in_chunks = _estimated(_in_chunks(preset), preset, base)
        fitting = _of(in_chunks, "fits") or (_of(in_chunks, "tight") if is_out else [])
    fitting = fitting or _of(known, "fits")
    if is_out:
        fitting = fitting or _of(known, "tight")
    if not fitting:
        return []
    change, numbers = smallest(fitting)
    return [_advice(change, numbers, base, f"smallest change that fits: {change.what}")]


def _in_chunks(preset: Preset) -> Iterator[Candidate]:
    """Chunks of the sequence with all else that saves activations, and with states on the host beside."""
    saves = {"training.checkpointing": "full", "engine.activation_offload": True, "engine.tiled_mlp": True}
    new = {key: value for key, value in saves.items() if assign(preset, {key: value}) != preset}
    for chunks in {fewest_chunks(preset), most_chunks(preset)}:
        if chunks <= preset.engine.sequence_chunks:
            continue
        sets = new | {"engine.sequence_chunks": chunks}
        what = f"{chunks} chunks of the sequence with all else that saves activations"
        yield sets, 50, what
        for beside, effort, more in _engine_advice(preset.engine.name):
            yield sets | beside, 50 + effort, f"{what}, {more}"


def _of(known: Known, verdict: Verdict) -> Known:
    return [pair for pair in known if pair[1].verdict == verdict]


def changed_pairs(preset: Preset, base: Estimate) -> Known:
    """Every two changes on the same GPUs that do not touch one value, with their numbers."""
    single = [change for change in _valid(_candidates(preset), preset) if _GPUS not in change.sets]
    found = []
    for one, other in itertools.combinations(single, 2):
        if one.sets.keys() & other.sets.keys():
            continue
        sets = one.sets | other.sets
        changed = assign(preset, sets)
        if mesh_problems(changed):
            continue
        pair = PresetChange(sets, changed, one.effort + other.effort, f"{one.what}, {other.what}")
        numbers = _try(pair, base)
        if numbers is not None:
            found.append((pair, numbers))
    return found


def _faster(base: Estimate, known: Known, said: set[tuple[str, ...]]) -> list[Advice]:
    """Changes that fit and raise TGS, most first; more GPUs are no advice on speed."""
    if base.tgs is None or base.verdict == "out of memory":
        return []
    better = [
        (change, numbers)
        for change, numbers in known
        if numbers.verdict == "fits"
        and _GPUS not in change.sets
        and (numbers.tgs or 0.0) > base.tgs * (1 + _MIN_GAIN)
    ]
    better.sort(key=lambda pair: -(pair[1].tgs or 0.0))
    advice = [_advice(c, n, base, f"{c.what}: {_gain(n, base)} faster") for c, n in better]
    return [a for a in advice if tuple(a.change) not in said][:_MAX_FASTER]


def _gain(numbers: Estimate, base: Estimate) -> str:
    assert numbers.tgs is not None and base.tgs is not None
    return percent(numbers.tgs / base.tgs - 1)


def _advice(change: PresetChange, numbers: Estimate, base: Estimate, why: str) -> Advice:
    ratio = numbers.tgs / base.tgs if numbers.tgs and base.tgs and base.verdict != "out of memory" else None
    return Advice(
        change=assignments(change),
        why=why,
        tgs=numbers.tgs,
        tgs_ratio=ratio,
        total_gib=numbers.memory.peak.total / GIB,
        verdict=numbers.verdict,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
