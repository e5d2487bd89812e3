"""Judges what ranks saw for `tgsbench verify`: one function a check, each from plain values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tgsbench.metrics.integrity import (
    expected_all_to_alls,
    expected_copy_sums,
    expected_expert_exchanges,
    expected_gathers,
    expected_kv_hops,
    expected_ring_sends,
    expected_scatters,
)
from tgsbench.schema.preset import Preset
from tgsbench.schema.verify import Check, CheckName, Evidence, MaskProbe, ShardRecord
from tgsbench.units import size

PARITY = 2e-6
"""Relative norm of the difference, in fp32: that of sums in another order (measured: up to 5e-7)."""
ENGINES = 2e-6
"""Relative difference of a step's loss over 20 steps, in fp32 (measured: 0 at sp 1 and 2, 6e-8 at sp 4)."""
ORACLE_GRADIENTS = 2e-6
"""Relative norm of the difference to fp64 gradients of the first step."""
ORACLE_STEPS = 1e-6
"""Relative difference of a step's loss and gradient norm to fp64, over all steps."""
TIE = 1e-4
"""Distance from a tie, in standard deviations of a layer's scores, within which a router may choose either
way (none met in 80,000 routings of three families)."""
UPDATE = 1e-3
"""Relative norm of the difference of what all steps changed in a parameter to fp64 (measured: up to 6e-5)."""
LEAK = 1e-6
"""Relative change of the other documents' loss; without a leak it is 0."""
REACHES = 1e-5
"""Least relative change of the changed document's own loss: without it nothing was tested."""


class CheckBounds(NamedTuple):
    """What may differ, by what the products run in."""

    gradients: float = ORACLE_GRADIENTS
    """Of the first step, to fp64."""
    losses: float = ORACLE_STEPS
    norms: float = ORACLE_STEPS
    update: float = UPDATE
    leak: float = LEAK
    causality: float = 0.0
    least: float = 0.0
    """Where gradients come nearer to fp64 than this, nothing was rounded to FP8."""


_PLAIN = CheckBounds()
_MIXTURE = CheckBounds(causality=LEAK)
"""Later tokens change how many rows an expert's product has, and a CPU's product of one to three rows sums in
another order than one of more (fp32, 64 columns: 6e-6 in a value; gpt-oss: 7.6e-8 in the loss)."""
_FP8 = CheckBounds(gradients=0.2, losses=1e-2, norms=0.1, update=0.3, least=1e-3)
"""To fp64 (measured on tiny_cpu: gradients 9.5e-2, updates 1.5e-1); parity is asked of plain products."""
_OF_A_TENSOR = CheckBounds(
    gradients=0.25, losses=1e-2, norms=0.1, update=0.4, leak=1e-3, causality=1e-3, least=1e-3
)
"""One scale for all tokens: what one token holds moves the smallest values of others; gradients keep two bits
(e5m2). Measured: gradients 0.12, updates 0.18."""


def bounds(preset: Preset) -> CheckBounds:
    """The bounds of a preset's checks."""
    if not preset.linear:
        return _PLAIN if preset.model.experts is None else _MIXTURE
    return _OF_A_TENSOR if preset.training.fp8_recipe == "tensorwise" else _FP8


Ranks = Sequence[Evidence]


def step_losses(ranks: Ranks) -> list[float]:
    """Label-weighted mean loss of each optimizer step over all ranks."""
    return [
        sum(sums) / max(1, labels)
        for labels, *sums in zip(ranks[0].num_labels, *(rank.loss_sums for rank in ranks), strict=True)
    ]


def parity(preset: Preset, differences: Mapping[str, float], alone: Ranks, many: Ranks) -> Check:
    """Loss and gradients of the first optimizer step on the mesh against one rank.

    `differences`: relative norm of the difference of each parameter's gradient.
    """
    measured = {
        "loss": _relative(step_losses(many)[0], step_losses(alone)[0]),
        **{f"gradient of {name}": difference for name, difference in differences.items()},
    }
    check = _worst_below("parity", preset, measured, PARITY)
    sharing = f" ({preset.sharing})" if preset.sharing else ""
    mesh = f"sp {preset.parallel.sp}{sharing}" + (f", dp {preset.dp}" if preset.dp > 1 else "")
    check.note = f"{mesh} against one rank, {len(differences)} parameters"
    return check


def oracle(preset: Preset, differences: Mapping[str, float], truth: Evidence, many: Ranks) -> Check:
    """Losses and gradient norms of all steps, and gradients of the first, against fp64 written apart.

    `differences`: relative norm of the difference of each parameter's gradient.
    """
    steps = {
        "loss": (step_losses(many), step_losses([truth])),
        "gradient norm": (many[0].grad_norms, truth.grad_norms),
    }
    bound = bounds(preset)
    limits = {"loss": bound.losses, "gradient norm": bound.norms}
    measured = {f"gradient of {name}": (value, bound.gradients) for name, value in differences.items()}
    for what, (ours, right) in steps.items():
        for step, (a, b) in enumerate(zip(ours, right, strict=True)):
            measured[f"{what} of step {step}: {a:.7g}, right {b:.7g}"] = (_relative(a, b), limits[what])
    routing = truth.routing
    if routing.decisions:
        measured["distance of a routing from its tie"] = (routing.farthest, TIE)
    check = _worst_of("oracle", preset.engine.name, measured)
    if max(differences.values(), default=0.0) < bound.least:
        check.status, check.worst = (
            "failed",
            f"no product ran in {preset.linear}: gradients are those of fp64",
        )
    check.note = f"{len(truth.loss_sums)} steps and {len(differences)} gradients against fp64 written apart"
    if routing.decisions:
        check.note += f"; {routing.ties} of {routing.decisions:,} routings are ties"
    return check


def update(preset: Preset, differences: Mapping[str, float], truth: Evidence) -> Check:
    """What all optimizer steps changed in each parameter, against fp64 written apart."""
    check = _worst_below("update", preset, differences, bounds(preset).update)
    check.note = f"{len(differences)} parameters after {len(truth.loss_sums)} steps"
    return check


def reduction(preset: Preset, ranks: Ranks) -> Check:
    """Types of gradients that reach a reduction over ranks, while compute runs in bf16."""
    seen = sorted({kind for rank in ranks for kind in rank.reduced})
    wanted = preset.training.reduce_dtype
    wrong = [kind for kind in seen if kind != wanted]
    if not seen:
        return skipped("reduction", preset.engine.name, "one rank: no gradient is reduced")
    return Check(
        name="reduction",
        engine=preset.engine.name,
        status="failed" if wrong else "passed",
        measured=", ".join(seen),
        bound=f"= {wanted}",
        worst=f"gradients are reduced in {', '.join(wrong)}" if wrong else "",
        note="compute in bfloat16",
    )


def engines(pair: str, first: Ranks, second: Ranks) -> Check:
    """Losses of two engines on the same mesh, step for step."""
    losses = list(zip(step_losses(first), step_losses(second), strict=True))
    measured = {f"step {i}: {a:.7g} and {b:.7g}": _relative(a, b) for i, (a, b) in enumerate(losses)}
    check = _worst_below("engines", pair, measured, ENGINES)
    check.note = f"{len(losses)} steps, loss {losses[0][0]:.4f} to {losses[-1][0]:.4f}"
    return check


def labels(preset: Preset, ranks: Ranks) -> Check:
    """Targets that reached the loss against those that the packed data hold, at shard borders above all."""
    demanded, seen = ranks[0].demanded, _seen(ranks)
    by_tokens = {cut.tokens: cut for cut in demanded}
    num_seen = sum(cut.num_labels for cut in seen)
    num_demanded = sum(cut.num_labels for cut in demanded)
    inner = [cut for cut in demanded if cut.is_inner and cut.border >= 0]
    fed = {(cut.tokens, cut.border) for cut in seen}
    lost = [cut.where for cut in inner if (cut.tokens, cut.border) not in fed]
    wrong = [cut.where for cut in seen if _differs(cut, by_tokens.get(cut.tokens))]
    missing = sorted(by_tokens.keys() - {cut.tokens for cut in seen})
    unfed = [f"{by_tokens[tokens].where} reached no rank" for tokens in missing]
    check = _counted("labels", preset, num_seen, num_demanded, [*lost, *wrong, *unfed])
    borders = f"{len(inner) - len(lost)} of {len(inner)} targets at shard borders kept"
    check.note = borders if preset.parallel.sp > 1 else "sp is 1: there are no shard borders"
    return check


def tokens(preset: Preset, ranks: Ranks) -> Check:
    """Distinct tokens that reached the model against those of the packs."""
    demanded, seen = ranks[0].demanded, _seen(ranks)
    wanted = Counter(cut.tokens for cut in demanded)
    fed: Counter[str] = Counter()
    first: dict[str, str] = {}
    wrong = []
    for cut in seen:
        fed[cut.tokens] += 1
        if cut.tokens not in wanted:
            wrong.append(f"{cut.where}: no shard of any pack")
        elif fed[cut.tokens] > wanted[cut.tokens]:
            wrong.append(f"{cut.where}: again what {first[cut.tokens]} had")
        first.setdefault(cut.tokens, cut.where)
    wrong += [f"{cut.where} reached no rank" for cut in demanded if cut.tokens not in first]
    distinct = sum(cut.num_tokens for cut in demanded if cut.tokens in first)
    total = sum(cut.num_tokens for cut in demanded)
    counted = sum(sum(rank.tokens) for rank in ranks)
    if counted != total:
        wrong.append(f"the trainer counts {counted:,} tokens for TGS")
    return _counted("tokens", preset, distinct, total, wrong)


def all_to_alls(preset: Preset, ranks: Ranks) -> Check:
    """All-to-alls that the process groups were asked for in each step, on each rank, against the shapes."""
    ran = {rank.rank: rank.all_to_alls for rank in ranks}
    return _as_demanded("all_to_all", preset, ran, expected_all_to_alls(preset))


def ring_sends(preset: Preset, ranks: Ranks) -> Check:
    """Messages that went round the ring in each step, from each rank, against the shapes."""
    ran = {rank.rank: rank.ring_sends for rank in ranks}
    return _as_demanded("ring", preset, ran, expected_ring_sends(preset))


def kv_hops(preset: Preset, ranks: Ranks) -> Check:
    """All-to-alls of keys and values between nodes in each step, on each rank, against the shapes."""
    ran = {rank.rank: rank.kv_hops for rank in ranks}
    return _as_demanded("kv_hops", preset, ran, expected_kv_hops(preset))


def shards(preset: Preset, ranks: Ranks) -> Check:
    """Gathers of parameters, scatters of gradients and their sums over copies, against stage and shapes."""
    kinds = {
        "gathers": ({rank.rank: rank.gathers for rank in ranks}, expected_gathers(preset)),
        "reduce-scatters": ({rank.rank: rank.scatters for rank in ranks}, expected_scatters(preset)),
        "sums over copies": ({rank.rank: rank.copy_sums for rank in ranks}, expected_copy_sums(preset)),
    }
    found = {what: _as_demanded("shards", preset, *of_kind) for what, of_kind in kinds.items()}
    what = next((what for what, check in found.items() if check.status == "failed"), "gathers")
    check = found.pop(what)
    beside = [f"{other.measured} of {kind}" for kind, other in found.items() if other.value]
    check.note = "; ".join([f"{what} {check.note}", *beside])
    return check


def expert_exchanges(preset: Preset, ranks: Ranks) -> Check:
    """All-to-alls of tokens to their experts and back: calls of each rank and step, bytes of all ranks.

    How many rows a rank sends back is the router's choice; what all send together is not.
    """
    calls, num_bytes = expected_expert_exchanges(preset)
    ran: dict[int, list[tuple[int, int]]] = {rank.rank: [] for rank in ranks}
    for of_step in zip(*(rank.expert_exchanges for rank in ranks), strict=True):
        mean = sum(sent for _, sent in of_step) / len(ranks)
        for rank, (called, _) in zip(ranks, of_step, strict=True):
            ran[rank.rank].append((called, round(mean)))
    check = _as_demanded("experts", preset, ran, (calls, num_bytes))
    check.note = f"{check.note}; bytes in the mean of all ranks"
    return check


def _as_demanded(
    name: CheckName, preset: Preset, by_rank: Mapping[int, list[tuple[int, int]]], demanded: tuple[int, int]
) -> Check:
    """Calls and bytes of every rank and step against those that must be."""
    wrong = [
        (rank, step, ran)
        for rank, steps in by_rank.items()
        for step, ran in enumerate(steps)
        if tuple(ran) != demanded
    ]
    ran = wrong[0][2] if wrong else demanded
    return Check(
        name=name,
        engine=preset.engine.name,
        status="failed" if wrong else "passed",
        measured=_traffic(*ran),
        bound=f"= {_traffic(*demanded)}",
        value=ran[1],
        limit=demanded[1],
        worst=f"rank {wrong[0][0]}, step {wrong[0][1]}" if wrong else "",
        note=f"per rank and step; {len(wrong)} of {sum(map(len, by_rank.values()))} differ",
    )


def mask(preset: Preset, ranks: Ranks) -> Check:
    """Does a change in one document move another one's loss?"""
    leaks = {rank.rank: rank.leak for rank in ranks if rank.leak is not None}
    if not leaks:
        return skipped("mask", preset.engine.name, "no pack of this length holds two documents")
    check = _unmoved("mask", preset, leaks, bounds(preset).leak)
    if not preset.workload.document_mask:
        check.note += "; the mask is turned on for this check, the preset has none"
    return check


def causality(preset: Preset, ranks: Ranks) -> Check:
    """Do later tokens move an earlier position's loss? Bit for bit, but for shared scales and experts."""
    probes = {rank.rank: rank.causality for rank in ranks if rank.causality is not None}
    return _unmoved("causality", preset, probes, bounds(preset).causality)


def _unmoved(name: CheckName, preset: Preset, probes: Mapping[int, MaskProbe], limit: float) -> Check:
    measured = {
        f"rank {rank}, {probe.changed}": _relative(probe.others_after, probe.others)
        for rank, probe in probes.items()
    }
    check = _worst_below(name, preset, measured, limit)
    own, after = (sum(getattr(probe, which) for probe in probes.values()) for which in ("own", "own_after"))
    moved = _relative(after, own)
    check.note = f"the loss of what was changed moved by {moved:.1e}"
    if moved < REACHES:
        check.status, check.worst = "failed", "the change did not reach the model"
    return check


def determinism(preset: Preset, differences: Mapping[str, float], first: Ranks, again: Ranks) -> Check:
    """The same preset twice, in processes of their own: equal bit for bit."""
    measured = {f"gradient of {name}": difference for name, difference in differences.items()}
    for what in ("loss_sums", "grad_norms"):
        for one, two in zip(first, again, strict=True):
            for step, (a, b) in enumerate(zip(getattr(one, what), getattr(two, what), strict=True)):
                measured[f"{what[:-1]} of rank {one.rank}, step {step}"] = _relative(b, a)
    check = _worst_below("determinism", preset, measured, 0.0)
    check.note = f"{len(first[0].loss_sums)} steps, {len(differences)} gradients"
    return check


def skipped(name: CheckName, engine: str, why: str) -> Check:
    """A check that has nothing to look at; it proves nothing."""
    return Check(name=name, engine=engine, status="skipped", note=why)


def not_run(name: CheckName, engine: str, why: str) -> Check:
    """A check whose run did not come to its end: no pass."""
    return Check(name=name, engine=engine, status="failed", measured="not run", note=why)


def _seen(ranks: Ranks) -> list[ShardRecord]:
    return [cut for rank in ranks for cut in rank.cuts]


def _differs(cut: ShardRecord, demanded: ShardRecord | None) -> bool:
    return demanded is not None and cut.labels != demanded.labels


def _relative(value: float, reference: float) -> float:
    if value == reference:
        return 0.0
    return abs(value - reference) / abs(reference) if reference else math.inf


def _worst_below(name: CheckName, of: Preset | str, measured: Mapping[str, float], limit: float) -> Check:
    """Passed when no value is above the limit; NaN fails."""
    engine = of if isinstance(of, str) else of.engine.name
    return _worst_of(name, engine, {what: (value, limit) for what, value in measured.items()})


def _worst_of(name: CheckName, engine: str, measured: Mapping[str, tuple[float, float]]) -> Check:
    """Passed when no value is above its own limit; the one that comes nearest to it is named."""
    worst = max(measured, key=lambda key: _share(*measured[key]))
    value, limit = measured[worst]
    return Check(
        name=name,
        engine=engine,
        status="passed" if value <= limit else "failed",
        measured=f"{value:.1e}" if value else "0",
        bound=f"≤ {limit:.0e}" if limit else "= 0",
        value=value if math.isfinite(value) else None,
        limit=limit,
        worst=worst if value else "",
    )


def _share(value: float, limit: float) -> float:
    """Of the limit; NaN is worst, and any value is above a limit of 0."""
    if math.isnan(value):
        return math.inf
    return value / limit if limit else value


def _counted(name: CheckName, preset: Preset, value: int, limit: int, wrong: Sequence[str]) -> Check:
    """Passed when the counts agree and nothing is wrong in detail."""
    return Check(
        name=name,
        engine=preset.engine.name,
        status="passed" if value == limit and not wrong else "failed",
        measured=f"{value:,}",
        bound=f"= {limit:,}",
        value=value,
        limit=limit,
        worst=wrong[0] + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else "") if wrong else "",
    )


def _traffic(calls: int, num_bytes: int) -> str:
    return f"{calls:,} calls, {size(num_bytes)}"
