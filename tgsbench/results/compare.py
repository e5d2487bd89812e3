"""Rows side by side: what differs, whether a ratio means anything, and the ratio."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tgsbench import units
from tgsbench.metrics import ratio as ratios
from tgsbench.metrics.ratio import Interval, Ratio
from tgsbench.results.rows import UNKNOWN, Row, from_forecast, from_reference, from_result
from tgsbench.schema.run import Verdict

__all__ = [
    "Comparison",
    "Difference",
    "Row",
    "compare",
    "compare_pairs",
    "differences",
    "from_forecast",
    "from_reference",
    "from_result",
]

SHORT_OF_PADDING = 0.05
"""Shares of padding further apart than this make two rows incomparable: they did other work per token."""

_USABLE = ("ok", "emulated", "preempted", "cancelled")
"""Statuses whose measured steps count; those that ended early say so in the notes."""


_ONE_RUN = "the spread between runs is not known, only that between steps of one run"
_EARLY = ("preempted", "cancelled")


class Difference(Struct, frozen=True, kw_only=True):
    """One thing that two rows do not share."""

    what: str
    a: str
    b: str
    blocks: bool
    """True: the figures measure different things, no ratio is given."""
    why: str = ""


class Comparison(Struct, frozen=True, kw_only=True):
    """Row `a` against row `b`, the base."""

    a: Row
    b: Row
    differences: list[Difference]
    verdict: Verdict
    reasons: list[str]
    """Why the verdict is no word about speed."""
    ratio: Ratio | None = None
    forced: bool = False
    """The ratio was asked for although the rows are not comparable."""
    notes: list[str] = []


def compare(a: Row, b: Row, *, force: bool = False) -> Comparison:
    """Compare `a` with the base `b`: differences first, then a ratio if it means anything.

    `force` computes the ratio of incomparable rows too; the verdict stays "not comparable".
    """
    found = differences(a, b)
    reasons = [*_unusable(a), *_unusable(b), *(_sentence(d) for d in found if d.blocks)]
    ratio = None
    if not (_no_rates(a) or _no_rates(b)) and (force or not reasons):
        ratio = _ratio(a, b)
    return Comparison(
        a=a,
        b=b,
        differences=found,
        verdict=_verdict(a, b, reasons, ratio),
        reasons=reasons,
        ratio=ratio,
        forced=bool(reasons) and ratio is not None,
        notes=_notes(a, b, found),
    )


def compare_pairs(a: Row, b: Row, pairs: Sequence[tuple[float, float]], *, force: bool = False) -> Comparison:
    """Compare rows whose runs alternated: the ratio is that of runs side by side, so drift cancels."""
    found = compare(a, b, force=force)
    if found.ratio is None or not pairs:
        return found
    p_value = ratios.mann_whitney(a.samples, b.samples)
    ratio = msgspec.structs.replace(ratios.of_pairs(pairs), p_value=p_value)
    verdict = found.verdict if found.reasons else ratios.verdict(ratio)
    notes = [
        note for note in found.notes if "too few for a 95" not in note and "without an interval" not in note
    ]
    return msgspec.structs.replace(found, ratio=ratio, verdict=verdict, notes=notes)


def differences(a: Row, b: Row) -> list[Difference]:
    """Everything the rows say differently; what makes a ratio meaningless first."""
    found = [d for rule in _RULES if (d := rule(a, b)) is not None] + _version_differences(a, b)
    return sorted(found, key=lambda d: not d.blocks)


def _ratio(a: Row, b: Row) -> Ratio:
    assert a.tgs
    assert b.tgs
    if a.repeats > 1 and b.repeats > 1:
        return ratios.of_runs(a.samples, b.samples)
    p_value = ratios.mann_whitney(a.samples, b.samples) if a.samples and b.samples else None
    return ratios.of_medians(a.tgs, _interval(a), b.tgs, _interval(b), p_value)


def _interval(row: Row) -> Interval | None:
    """The median's 95 % interval, of a plan made from its 80 %.

    Below 6 samples the whole range, which covers less.
    """
    if row.ci95 is not None:
        return row.ci95
    if row.range80 is not None and row.tgs:
        return ratios.widened(row.tgs, row.range80)
    return (min(row.samples), max(row.samples)) if len(row.samples) > 1 else None


def _verdict(a: Row, b: Row, reasons: list[str], ratio: Ratio | None) -> Verdict:
    if reasons:
        return "not comparable"
    if ratio is None or a.tgs is None or b.tgs is None:
        return "none"
    return ratios.verdict(ratio)


def _unusable(row: Row) -> list[str]:
    """Why this row alone allows no comparison of speed."""
    if row.tgs is None or row.status not in _USABLE:
        return [f"{row.label} has no TGS to compare: {row.reason or row.status}"]
    odd = _no_rates(row)
    return [f"{row.label} has no TGS to compare: {odd[0]:g} is among its figures"] if odd else []


def _no_rates(row: Row) -> list[float]:
    """Figures that no ratio can be made of, such as a TGS of 0 in an imported row."""
    return [rate for rate in (row.tgs or 0.0, *(row.interval or ()), *row.samples) if not 0 < rate < math.inf]


def _notes(a: Row, b: Row, found: Sequence[Difference]) -> list[str]:
    notes = [
        f"{row.label}: {len(row.samples)} samples are too few for a 95 % interval; their range stands in"
        for row in (a, b)
        if row.ci95 is None and len(row.samples) > 1
    ]
    notes += [f"{row.label}: ended early ({row.status})" for row in (a, b) if row.status in _EARLY]
    notes += [
        f"{row.label}: measured on a disturbed machine: {row.disturbances[-1]}"
        for row in (a, b)
        if row.disturbances
    ]
    notes += [f"{row.label}: {row.damaged}" for row in (a, b) if row.damaged]
    notes += [f"{row.label}: one figure without an interval" for row in (a, b) if _lacks_interval(row)]
    notes += [f"{row.label}: {remark}" for row in (a, b) for remark in row.remarks]
    if a.kind == b.kind == "run" and (alone := [row.label for row in (a, b) if row.repeats == 1 and row.tgs]):
        notes.append(f"{_ONE_RUN}: {', '.join(alone)}; tgsbench run --repeats 5 measures it")
    silent = sorted({what for row in (a, b) for what in _silent(row)})
    if silent:
        notes.append(f"not said by every row: {', '.join(silent)}")
    return notes


def _lacks_interval(row: Row) -> bool:
    return row.tgs is not None and row.interval is None and len(row.samples) < 2


def _silent(row: Row) -> list[str]:
    said = {
        "GPU": row.gpu,
        "document mask": "said" if row.document_mask is not None else "",
        "tokens per step": row.tokens_per_step,
        "padding": "said" if row.share_padded is not None else "",
        "checkpointing": row.checkpointing,
        "attention kernel": row.kernel,
        "versions": row.versions,
    }
    return [what for what, value in said.items() if not value]


def _sentence(difference: Difference) -> str:
    why = f" ({difference.why})" if difference.why else ""
    return f"{difference.what}: {difference.a} against {difference.b}{why}"


# --- what can differ ------------------------------------------------------------------------------

_Rule = Callable[[Row, Row], Difference | None]


def _sharing(a: Row, b: Row) -> Difference | None:
    """Rings, copies, stages: only where both rows are ours, for others do not say."""
    if a.sharing == b.sharing or {a.kind, b.kind} - {"run", "predicted"}:
        return None
    return Difference(what="sharing", a=a.sharing or "as usual", b=b.sharing or "as usual", blocks=False)


def _linear(a: Row, b: Row) -> Difference | None:
    """FP8 against bf16 is no ratio of speed alone; two recipes of FP8 are compared, and named."""
    if a.linear == b.linear or None in (a.linear, b.linear):
        return None
    names = [row.linear or row.dtype or "compute dtype" for row in (a, b)]
    one_is_not = not (a.linear and b.linear)
    why = "FP8 gives up digits for speed" if one_is_not else ""
    return Difference(what="products", a=names[0], b=names[1], blocks=one_is_not, why=why)


def _field(
    what: str, of: Callable[[Row], Any], blocks: bool, show: Callable[[Any], str] = str, why: str = ""
) -> _Rule:
    """A rule that compares one field where both rows say it."""

    def rule(a: Row, b: Row) -> Difference | None:
        ours, theirs = of(a), of(b)
        if ours == theirs or ours in (UNKNOWN, 0, None) or theirs in (UNKNOWN, 0, None):
            return None
        return Difference(what=what, a=show(ours), b=show(theirs), blocks=blocks, why=why)

    return rule


def _mask(a: Row, b: Row) -> Difference | None:
    if a.document_mask == b.document_mask or None in (a.document_mask, b.document_mask):
        return None
    names = {True: "per document", False: "whole pack"}
    return Difference(
        what="attention mask",
        a=names[bool(a.document_mask)],
        b=names[bool(b.document_mask)],
        blocks=True,
        why="a document mask alone changes TGS 1.2 to 5 times",
    )


def _padding(a: Row, b: Row) -> Difference | None:
    if a.share_padded is None or b.share_padded is None:
        return None
    gap = abs(a.share_padded - b.share_padded)
    if gap < 0.0005:
        return None
    return Difference(
        what="padding",
        a=units.percent(a.share_padded),
        b=units.percent(b.share_padded),
        blocks=gap > SHORT_OF_PADDING,
        why=f"explains up to {units.percent(gap)} of a ratio",
    )


def _corpus(a: Row, b: Row) -> Difference | None:
    if a.corpus == b.corpus or not a.corpus or not b.corpus:
        return None
    masked = bool(a.document_mask and b.document_mask)
    why = "documents of other lengths under a document mask" if masked else ""
    return Difference(what="corpus", a=a.corpus, b=b.corpus, blocks=masked, why=why)


def _model(a: Row, b: Row) -> Difference | None:
    if not a.num_parameters or not b.num_parameters or a.num_parameters == b.num_parameters:
        return None
    return Difference(
        what="model",
        a=f"{a.model}, {a.num_parameters:,} parameters",
        b=f"{b.model}, {b.num_parameters:,} parameters",
        blocks=True,
    )


def _emulation(a: Row, b: Row) -> Difference | None:
    names = ["one rank, the rest computed" if row.status == "emulated" else "measured" for row in (a, b)]
    if names[0] == names[1]:
        return None
    return Difference(what="measurement", a=names[0], b=names[1], blocks=True)


def _rehearsal(a: Row, b: Row) -> Difference | None:
    if a.rehearsal_of == b.rehearsal_of:
        return None
    names = [f"rehearsal of {row.rehearsal_of}" if row.rehearsal_of else "full size" for row in (a, b)]
    return Difference(what="size", a=names[0], b=names[1], blocks=True)


_RULES: tuple[_Rule, ...] = (
    _rehearsal,
    _emulation,
    _model,
    _field("GPU", lambda r: r.gpu, True),
    _field("GPUs", lambda r: r.num_gpus, True),
    _field("sequence length", lambda r: r.seq_len, True, units.length),
    _mask,
    _field("tokens per step", lambda r: r.tokens_per_step, True, lambda n: f"{n:,}"),
    _padding,
    _field("compute dtype", lambda r: r.dtype, True),
    _linear,
    _corpus,
    _field("engine", lambda r: r.system, False),
    _field("sequence parallel", lambda r: r.sp, False),
    _sharing,
    _field("checkpointing", lambda r: r.checkpointing, False),
    _field("attention kernel", lambda r: r.kernel, False),
)


def _version_differences(a: Row, b: Row) -> list[Difference]:
    """Packages that both rows name in different versions, and those only one has."""
    if not a.versions or not b.versions:
        return []
    names = sorted(a.versions.keys() | b.versions.keys())
    pairs = [(name, a.versions.get(name, "none"), b.versions.get(name, "none")) for name in names]
    return [Difference(what=name, a=x, b=y, blocks=False) for name, x, y in pairs if x != y]
