"""Which FLOPs convention do somebody's TFLOPs follow? Solved for from their TGS."""

from __future__ import annotations

from msgspec import Struct

from tgsbench.metrics import figures
from tgsbench.models.flops import FORMULAS, XTUNER, flops_per_token
from tgsbench.models.spec import num_parameters
from tgsbench.schema.hardware import GpuSpec
from tgsbench.schema.preset import Checkpointing, ModelShape

WITHIN = 0.01
"""Published figures that follow a convention do so within 0.7 % (rounding, and two slips in the sources)."""

_RECOMPUTED: tuple[Checkpointing, ...] = ("full", "selective")
"""Without recompute, `hardware` is `model`."""


class ConventionFit(Struct, frozen=True, kw_only=True):
    """One way to count FLOPs and how far the stated figure is from it."""

    name: str
    checkpointing: str
    """The policy it assumes, or empty where that does not matter."""
    formula: str
    tflops: float
    """What this convention makes of the stated TGS."""
    deviation: float
    """Stated over computed, minus 1."""

    @property
    def label(self) -> str:
        """Name, and the policy where it matters."""
        recompute = "no" if self.checkpointing == "none" else self.checkpointing
        return f"{self.name} ({recompute} recompute)" if self.checkpointing else self.name


class Identified(Struct, frozen=True, kw_only=True):
    """The convention found, or none, and the same speed in `model` terms."""

    convention: str
    """Nearest convention, or empty when none is within 1 %."""
    candidates: list[ConventionFit]
    """Nearest first."""
    tflops: float
    """The stated figure."""
    model_tflops: float
    model_mfu: float | None = None
    """None without a known GPU."""

    @property
    def fits(self) -> list[ConventionFit]:
        """Every convention within 1 %: for some shapes two give one figure."""
        return [c for c in self.candidates if abs(c.deviation) <= WITHIN]


def identify(
    shape: ModelShape, attended_len: float, tgs: float, tflops: float, gpu: GpuSpec | None = None
) -> Identified:
    """Solve for the convention that turns `tgs` (tokens/GPU/s) into `tflops` (per GPU).

    The named four come first among equals; "6N" (parameters only, no attention), "hfu" (whole layers run
    again, as re-entrant checkpoints do) and "palm_hfu" (4/3 of palm, as llm-foundry reports HFU) are known
    from other tools.
    """
    found = [
        ConventionFit(
            name=name,
            checkpointing=policy,
            formula=formula,
            tflops=figures.tflops(tgs, flops),
            deviation=figures.tflops_deviation(tflops, tgs, flops),
        )
        for name, policy, formula, flops in _known(shape, attended_len)
    ]
    found.sort(key=lambda c: round(abs(c.deviation), 4))
    model = figures.tflops_in("model", shape, attended_len, "none", tgs)
    return Identified(
        convention=found[0].name if abs(found[0].deviation) <= WITHIN else "",
        candidates=found,
        tflops=tflops,
        model_tflops=model,
        model_mfu=figures.mfu(model, gpu),
    )


def _known(shape: ModelShape, attended_len: float) -> list[tuple[str, str, str, float]]:
    def flops(name: str, policy: Checkpointing = "full") -> float:
        return flops_per_token(name, shape, attended_len, policy)

    rows = [(XTUNER, policy, FORMULAS[XTUNER], flops(XTUNER, policy)) for policy in ("full", "none")]
    rows += [(name, "", FORMULAS[name], flops(name)) for name in ("model", "palm")]
    rows += [("hardware", policy, FORMULAS["hardware"], flops("hardware", policy)) for policy in _RECOMPUTED]
    rows.append(("6N", "", "6N, attention not counted", 6.0 * num_parameters(shape)))
    layers = flops("model") / 3 - 2.0 * shape.hidden_size * shape.vocab_size
    rows.append(("hfu", "full", "model + every product of every layer once more", flops("model") + layers))
    rows.append(("palm_hfu", "", "4/3 of palm (llm-foundry's HFU)", 4 / 3 * flops("palm")))
    return rows
