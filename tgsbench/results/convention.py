"""Which FLOPs convention do somebody's TFLOPs follow? Solved for from their TGS."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from tgsbench.metrics import figures
from tgsbench.models.flops import TABLE, flops_per_token
from tgsbench.models.spec import num_parameters
from tgsbench.schema.hardware import GpuSpec
from tgsbench.schema.preset import Checkpointing, ModelShape

WITHIN = 0.01
"""Published figures that follow a convention do so within 0.7 % (rounding, and two slips in the sources)."""

_LLAMA2_VOCAB = 32_000


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
    packed_len: float | None = None
    """Attended length at which `model` would give the stated figure: that of packed documents; None where
    no length up to the sequence's does."""
    contradiction: str = ""
    """Why no training of the whole model can have both figures where no convention fits, or nothing."""

    @property
    def fits(self) -> list[ConventionFit]:
        """Every convention within 1 %: for some shapes two give one figure."""
        return [c for c in self.candidates if abs(c.deviation) <= WITHIN]


def identify(
    shape: ModelShape, attended_len: float, tgs: float, tflops: float, gpu: GpuSpec | None = None
) -> Identified:
    """Solve for the convention that turns `tgs` (tokens/GPU/s) into `tflops` (per GPU).

    The named four come first among equals; "6N" (parameters only, no attention), "hfu" (whole layers run
    again, as re-entrant checkpoints do), "palm_hfu" (4/3 of palm, as llm-foundry reports HFU), "model_mtp"
    and "model_no_router" (Megatron-LM), "model_vocab_32k" (Megatron's, which counts the head at the size of
    the tokenizer that the data were made with: Llama 2's in its own recipes) are known from other tools.
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
    fits = abs(found[0].deviation) <= WITHIN
    return Identified(
        convention=found[0].name if fits else "",
        candidates=found,
        tflops=tflops,
        model_tflops=model,
        model_mfu=figures.mfu(model, gpu),
        packed_len=_packed_len(shape, attended_len, tflops / tgs * 1e12),
        contradiction="" if fits else _contradiction(shape, attended_len, tflops / tgs * 1e12),
    )


def _contradiction(shape: ModelShape, attended_len: float, flops: float) -> str:
    """What is wrong with a figure per token that the products with the weights alone exceed."""
    least = _model(shape, 1e-9)
    if flops >= (1 - WITHIN) * least:
        return ""
    text = (
        f"{flops / 1e9:.1f} GFLOPs a token, but its weights alone take {least / 1e9:.1f} forward and backward"
    )
    layers = _fewer_layers(shape, attended_len, flops)
    return f"{text}; {layers} of its {shape.num_layers} layers would explain it" if layers else text


def _fewer_layers(shape: ModelShape, attended_len: float, flops: float) -> int:
    """How many layers `model` needs for these FLOPs per token, or 0 where no number gives them."""
    fewer = range(1, shape.num_layers)
    best = min(fewer, key=lambda n: abs(_model(_of_layers(shape, n), attended_len) - flops), default=0)
    # No quotient: of a tiny figure over a huge TGS nothing is left.
    if not best or abs(_model(_of_layers(shape, best), attended_len) - flops) > WITHIN / 2 * flops:
        return 0
    return best


def _of_layers(shape: ModelShape, num_layers: int) -> ModelShape:
    if (experts := shape.experts) is None:
        return replace(shape, num_layers=num_layers)
    dense = min(experts.dense_first, num_layers - 1)
    return replace(shape, num_layers=num_layers, experts=replace(experts, dense_first=dense))


def _packed_len(shape: ModelShape, seq_len: float, flops: float) -> float | None:
    """The attended length whose `model` FLOPs per token these are, by halving; it grows with the length."""
    low, high = 0.0, seq_len
    if not _model(shape, 1e-9) <= flops < _model(shape, high):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _model(shape, middle) < flops else (low, middle)
    return high


def _model(shape: ModelShape, attended_len: float) -> float:
    return flops_per_token("model", shape, attended_len, "none")


def _known(shape: ModelShape, attended_len: float) -> list[tuple[str, str, str, float]]:
    def flops(name: str, policy: Checkpointing = "full") -> float:
        return flops_per_token(name, shape, attended_len, policy)

    rows: list[tuple[str, str, str, float]] = [
        (name, policy, convention.formula, flops(name, policy or "full"))
        for name, convention in TABLE.items()
        for policy in convention.policies or ("",)
    ]
    rows.append(("6N", "", "6N, attention not counted", 6.0 * num_parameters(shape)))
    layers = flops("model") / 3 - 2.0 * shape.hidden_size * shape.vocab_size
    rows.append(("hfu", "full", "model + every product of every layer once more", flops("model") + layers))
    if shape.latent is not None and not shape.mtp_layers:
        with_mtp = flops_per_token("model", replace(shape, mtp_layers=1), attended_len, "none")
        rows.append(("model_mtp", "", "model with one multi-token-prediction module", with_mtp))
    counted = flops("model")
    if shape.experts is not None:
        counted -= 6.0 * shape.num_layers * shape.hidden_size * shape.experts.num
        rows.append(("model_no_router", "", "model without the router's product", counted))
    if shape.vocab_size > 2 * _LLAMA2_VOCAB:
        counted -= 6.0 * shape.hidden_size * (shape.vocab_size - _LLAMA2_VOCAB)
        rows.append(("model_vocab_32k", "", "model with a head for 32,000 tokens and no router", counted))
    rows.append(("palm_hfu", "", "4/3 of palm (llm-foundry's HFU)", 4 / 3 * flops("palm")))
    return rows
