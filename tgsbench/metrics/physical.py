"""Does a run make physical sense: kernels that do no work are fast, and count every token.

Every check has a name and says what it found; one that needs a figure nobody knows is told as not checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from tgsbench import units
from tgsbench.metrics import clock, figures
from tgsbench.metrics.packs import PackLedger
from tgsbench.metrics.step_total import StepTotal
from tgsbench.models.spec import num_parameters
from tgsbench.schema.events import FirstStep
from tgsbench.schema.hardware import GpuSpec
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Integrity

SIMULATED: Final = "simulated"
"""Device of made-up runs, such as the recording: their figures were never measured."""
_FIRST_LOSS: Final = (0.5, 2.0)
"""Of ln V. Random weights spread the logits by 0.02 · sqrt(hidden size): ln V + 1.6 at 8,192."""
_MIN_VOCAB: Final = 64
_CLOCKS_AGREE: Final = 1.01
_FIRST_UPDATE: Final = (0.7, 1.1)
"""Of the learning rate (measured: 0.998): AdamW's first step divides each gradient by its own size."""
_LEAST_LR_SHARE: Final = 0.01
"""Less moves a weight by about its own last bit."""
_STILL: Final = 0.1
"""Of the learning rate: a layer that trains moves by all of it, decay alone moves it by a hundredth."""
_NOTHING: Final = 1e-6
"""Of the micro-step that adds most; one target among a million adds a thousandth."""
_CLIPPED: Final = 1e-3
"""Norms in fp32 and fp64 of the same gradient part by less than 1e-4."""
_LATER_UPDATE: Final = (0.005, 4.0)
"""Adam's own bound is (1 - beta1) / sqrt(1 - beta2): 3.2."""
_BYTES_PER_PARAMETER: Final = 2
"""The least that a weight takes: bf16 without a master copy."""


class Measured(Struct, frozen=True, kw_only=True):
    """Everything of a run that the checks compare."""

    preset: Preset
    steps: Sequence[StepTotal]
    """Every step that all ranks reported, of any phase, in order."""
    gpu: GpuSpec | None
    device: str
    mfu: float | None
    """`model` TFLOPs over the GPU's dense bf16 peak."""
    clocks: Mapping[int, clock.RankClock] = {}
    """Step times and stamps of each rank."""
    packs: PackLedger = field(default_factory=PackLedger)
    num_packs: int = 0
    """Packs of an epoch."""
    first_steps: Mapping[int, FirstStep] = {}
    """What each rank saw of the first optimizer step."""
    longest_wait: tuple[float, int] = (0.0, -1)
    """Of a rank in one group's collectives, over its step's time, and the step."""


class NotChecked(Exception):
    """Why a check could not be made."""


def check_physics(measured: Measured, into: Integrity) -> None:
    """Add every check's verdict to a run's integrity; made-up runs are left alone."""
    if measured.device == SIMULATED or not measured.steps:
        return
    problems = []
    for name, check in CHECKS.items():
        try:
            problem = check(measured)
        except NotChecked as why:
            into.not_checked.append(f"{name}: {why}")
            continue
        problems += [f"{name}: {problem}"] if problem else []
    into.physical_ok = not problems
    into.problems += problems


def _first_loss(m: Measured) -> str:
    """The first step has its packs' targets, and its loss is about ln V: random weights know nothing."""
    first, vocab = m.steps[0], m.preset.model.vocab_size
    demanded = {seen.num_labels for seen in m.first_steps.values() if seen.num_labels}
    if first.step == 0 and demanded and demanded != {first.labels}:
        return f"step 0 had {first.labels:,} targets where its packs hold {max(demanded):,}"
    if first.step != 0 or first.loss is None or vocab < _MIN_VOCAB:
        raise NotChecked("no loss of step 0 was reported by all ranks")
    expected = math.log(vocab)
    low, high = (share * expected for share in _FIRST_LOSS)
    if low <= first.loss <= high:
        return ""
    bounds = f"{low:.1f} to {high:.1f} (ln V = {expected:.1f})"
    return f"{units.three(first.loss)} where random weights give {bounds}"


class _Range(Struct):
    """Between which figures a run's steps lie."""

    num: int = 0
    low: float = math.inf
    high: float = -math.inf
    is_finite: bool = True

    @classmethod
    def of(cls, values: Iterable[float]) -> _Range:
        """Of so many figures as there are, one after the other."""
        found = cls()
        for value in values:
            found.num += 1
            found.is_finite &= math.isfinite(value)
            found.low, found.high = min(found.low, value), max(found.high, value)
        return found

    def stays(self) -> str:
        """That all are one; empty where they differ."""
        return f"it stays at {self.low:.6g} for {self.num} steps" if self.low == self.high else ""


def _moving_loss(m: Measured) -> str:
    """Weights that are updated and packs that differ give another loss at every step."""
    losses = _Range.of(s.loss for s in m.steps if s.loss is not None)
    if not losses.num:
        return f"no label was trained in {len(m.steps)} steps"
    if not losses.is_finite:
        return "it is not finite"
    if losses.num < 2 or m.preset.training.lr == 0:
        raise NotChecked("it takes two steps and a learning rate above 0")
    return losses.stays()


def _gradient_norm(m: Measured) -> str:
    """Gradients exist, are finite, and differ from step to step."""
    norms = _Range.of(s.grad_norm for s in m.steps)
    if not norms.is_finite:
        return "it is not finite"
    if norms.low == norms.high == 0:
        return f"it is 0 in all {norms.num} steps"
    return (norms.stays() if norms.num > 2 else "") or _idle_micro_step(m) or _clipped(m)


def _idle_micro_step(m: Measured) -> str:
    """Each micro-step of the first step adds to the gradients; few targets add less, not nothing."""
    for rank, seen in sorted(m.first_steps.items()):
        norms = {micro: norm for micro, norm in enumerate(seen.added) if norm is not None}
        least = _NOTHING * max(norms.values(), default=0.0)
        idle = [str(micro + 1) for micro, norm in norms.items() if norm < least]
        if idle:
            return f"micro-step {', '.join(idle)} of step 0 added nothing to the gradients of rank {rank}"
    return ""


def _clipped(m: Measured) -> str:
    """Adam's first moments after one step are the clipped gradient times 1 - beta1: of the norm told."""
    squares = [seen.moments_squared for seen in m.first_steps.values()]
    known, first, training = [s for s in squares if s is not None], m.steps[0], m.preset.training
    if first.step != 0 or len(known) < first.num_ranks or training.beta1 >= 1:
        return ""
    found = math.sqrt(max(0.0, sum(known))) / (1 - training.beta1)
    expected = min(first.grad_norm, training.clip_norm)
    if math.isclose(found, expected, rel_tol=_CLIPPED):
        return ""
    return (
        f"in step 0 the optimizer took gradients of norm {found:.4g}, where {first.grad_norm:.4g} was told "
        f"and clip_norm is {training.clip_norm:g}"
    )


def _mfu(m: Measured) -> str:
    """No GPU does more FLOPs than its tensor cores can."""
    if m.device == "cpu":
        return ""
    if m.gpu is None or m.mfu is None:
        raise NotChecked(f"no peak is known for {m.device!r}")
    peak = figures.peak_tflops(m.gpu, m.preset.linear)
    return f"{m.mfu:.0%} of the {peak:g} TFLOPs that the GPU can do" if m.mfu > 1 else ""


def _link_rate(m: Measured) -> str:
    """All-to-alls move no more bytes a second than the GPU's fastest link."""
    sp = m.preset.parallel.sp
    if m.device == "cpu" or sp == 1:
        return ""
    if m.gpu is None:
        raise NotChecked(f"no link is known for {m.device!r}")
    sent = ((s.a2a_bytes / s.num_ranks * (sp - 1) / sp, s.step_s) for s in m.steps)
    peak = max(m.gpu.nvlink_gb_per_s, m.gpu.inter_node_gb_per_s)
    fastest = max((num_bytes / seconds / 1e9 for num_bytes, seconds in sent if seconds > 0), default=0.0)
    return f"{fastest:,.0f} GB/s over a link of {peak:g} GB/s" if fastest > peak else ""


def _data_time(m: Measured) -> str:
    """A step takes no less than its own waiting for data."""
    odd = next((s for s in m.steps if s.data_share > _CLOCKS_AGREE), None)
    return f"in step {odd.step} data took {odd.data_share:.1f} times the whole step" if odd else ""


def _waits(m: Measured) -> str:
    """A step takes no less than what a rank stood in the collectives of one group."""
    share, step = m.longest_wait
    return f"in step {step} a rank waited {share:.1f} times the whole step" if share > _CLOCKS_AGREE else ""


def _memory(m: Measured) -> str:
    """A rank holds at least its shard of the weights."""
    peak = max(s.mem_peak for s in m.steps)
    if m.preset.engine.offload == "all" or not peak:
        raise NotChecked("weights are offloaded" if peak else "no memory was reported")
    shard = _BYTES_PER_PARAMETER * num_parameters(m.preset.model) / m.preset.world_size
    return f"a peak of {peak:,} bytes cannot hold the weights' shard of {shard:,.0f}" if peak < shard else ""


def _clock(m: Measured) -> str:
    """Step times fill the time between the stamps of the events that tell them, by another clock."""
    if not any(c.num_steps for c in m.clocks.values()):
        raise NotChecked("the events carry no stamps of steps in a row")
    return clock.disagreement(m.clocks)


def _packs(m: Measured) -> str:
    """No sp group trains packs in an epoch that it, or another group, trained in that epoch before."""
    if not m.packs.known or not m.num_packs:
        raise NotChecked("the events do not tell the packs of a step apart")
    twice = m.packs.twice(m.preset, m.num_packs)
    return twice[0] + (f" and {len(twice) - 1} more" if len(twice) > 1 else "") if twice else ""


def _update(m: Measured) -> str:
    """AdamW's first step changes each weight by the learning rate, every later one by a share of it."""
    if all(s.update is None for s in m.steps):
        raise NotChecked("no rank looked at its weights")
    if m.preset.training.lr == 0:
        raise NotChecked("the learning rate is 0")
    return next(filter(None, (_odd_update(m.preset, s) for s in m.steps)), "") or _still_layers(m)


def _odd_update(preset: Preset, s: StepTotal) -> str:
    """What a step's change of the weights is, where its learning rate does not explain it."""
    if s.update is None:
        return ""
    lr, (low, high) = scheduled_lr(preset, s.step), _LATER_UPDATE if s.step else _FIRST_UPDATE
    if lr < _LEAST_LR_SHARE * preset.training.lr or low * lr <= s.update <= high * lr:
        return ""
    return f"step {s.step} changed weights by {s.update:.2g} at a learning rate of {lr:.2g}"


def _still_layers(m: Measured) -> str:
    """The first step moves every layer: one whose outputs go nowhere has no gradient."""
    largest: dict[int, float] = {}
    for seen in m.first_steps.values():
        for layer, update in enumerate(seen.updates[: m.preset.model.num_layers]):
            if update is not None:
                largest[layer] = max(largest.get(layer, 0.0), update)
    least = _STILL * scheduled_lr(m.preset, 0)
    still = [str(layer) for layer, update in sorted(largest.items()) if update < least]
    return f"step 0 left the weights of layer {', '.join(still)} as they were" if still else ""


def scheduled_lr(preset: Preset, step: int) -> float:
    """The learning rate that a step must take: linear warm-up, then half a cosine down to zero."""
    num_steps = preset.measure.warmup + preset.measure.steps
    rising = max(1, round(num_steps * preset.training.lr_warmup_ratio))
    done = min(1.0, max(0.0, (step - rising) / max(1, num_steps - rising)))
    return preset.training.lr * min(1.0, (step + 1) / rising) * math.cos(math.pi / 2 * done) ** 2


CHECKS: Final[dict[str, Callable[[Measured], str]]] = {
    "first loss": _first_loss,
    "loss": _moving_loss,
    "gradient norm": _gradient_norm,
    "MFU": _mfu,
    "all-to-all rate": _link_rate,
    "data time": _data_time,
    "waits": _waits,
    "memory": _memory,
    "clock": _clock,
    "packs": _packs,
    "update": _update,
}
"""Name -> what is wrong, or an empty text; each says in its docstring what it rests on."""
