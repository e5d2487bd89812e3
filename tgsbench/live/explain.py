"""What a shown figure means: its formula, the inputs it was computed from, and the source."""

from __future__ import annotations

from dataclasses import dataclass, field

from tgsbench import units
from tgsbench.live.headline import Headline, RunView
from tgsbench.live.stragglers import SLOW_RATIO, SLOW_STEPS
from tgsbench.metrics import figures
from tgsbench.models.flops import FORMULAS, flops_per_token
from tgsbench.presets.catalog import find_gpu
from tgsbench.schema.collective_kinds import KINDS


@dataclass(frozen=True)
class Explanation:
    """One figure's answer to "what is this number?"."""

    title: str
    meaning: str
    formula: str
    source: str
    inputs: list[tuple[str, str]] = field(default_factory=list)
    """Name and value of what went in, as shown."""


def _bus_formulas() -> str:
    """Bus bandwidth by kind of collective, kinds of one formula together."""
    titles: dict[int, list[str]] = {}
    for kind in KINDS:
        if kind.link_passes:
            titles.setdefault(kind.link_passes, []).append(kind.title)
    return "; ".join(
        f"{', '.join(kinds)}: bytes · {passes if passes > 1 else ''}(n−1)/n / time"
        for passes, kinds in titles.items()
    )


TEXTS: dict[str, Explanation] = {
    "tgs": Explanation(
        "TGS — tokens per GPU per second",
        "How fast the run trains. The median over measured optimizer steps; warm-up and profiled steps "
        "do not count, padding is no token. In its chart the band of dots is the published value ± 1 %.",
        "TGS of a step = real tokens of all ranks / (GPUs · seconds of the slowest rank)",
        "XTuner's speed benchmark uses the same unit; it logs micro-batches, whose mean is biased upward",
    ),
    "tgs_ci": Explanation(
        "95 % interval of the median TGS",
        "The true median lies in it in 95 of 100 repetitions, whatever the distribution of steps. "
        "Below 6 steps no such interval exists.",
        "[x(k), x(n+1−k)], largest k with Σ_{i<k} C(n,i)/2ⁿ ≤ 2.5 %",
        "Conover, Practical Nonparametric Statistics, 3.2",
    ),
    "verdict": Explanation(
        "Verdict against the published row",
        "better or worse: the published value lies outside the 95 % interval and differs by 1 % or more; "
        "same: the difference is real but under 1 %, or the interval lies within 2 %; not significant: the "
        "interval holds it; not comparable: GPU, GPU count, length or mask differ, or this is a rehearsal "
        "or a simulation.",
        "ratio = median TGS / published TGS",
        "the preset's published rows",
    ),
    "mfu": Explanation(
        "MFU — model FLOPs utilisation",
        "Share of the GPU's dense bf16 peak that the model's own FLOPs use; recomputation does not count. "
        "Where the layers' products run in FP8 it is the FP8 peak, although attention and head do not. "
        "A device without a known peak has none.",
        "MFU = TFLOPs in the model convention / dense bf16 peak, or FP8 peak",
        "PaLM paper, appendix B; causal attention counted once, as Megatron-LM does",
    ),
    "step_s": Explanation(
        "Step time",
        "Seconds of one optimizer step: all its micro-steps, forward, backward and the update. "
        "The median over measured steps, the slowest rank of each. In its chart dots are the fastest rank, "
        "dashes the chosen one.",
        "max over ranks of step_s, median over steps",
        "the ranks' step events, clock synchronised on the device",
    ),
    "mem": Explanation(
        "Peak memory",
        "The largest rank's peak over all steps so far. In its chart dots are the smallest rank, dashes the "
        "chosen one.",
        "max over ranks and steps of mem_peak",
        "CUDA: the allocator's peak since the step began; CPU: the resident set size",
    ),
    "loss": Explanation(
        "Loss",
        "Mean cross-entropy per label of the newest complete step, over all ranks.",
        "Σ loss over labels / Σ labels",
        "the ranks' step events (loss_sum, labels)",
    ),
    "eta": Explanation(
        "Time left",
        "An estimate: the steps that are left at the pace so far. Set-up and trace export are not in it.",
        "(planned steps − finished steps) · median step time",
        "preset (measure.warmup + measure.steps + profiled steps) and step events",
    ),
    "straggler": Explanation(
        "Rank × step",
        f"Each cell is one rank in one step (or the slowest of several). A straggler is a rank at "
        f"{SLOW_RATIO:g} times the median rank or more in the last {SLOW_STEPS} rows. Ranks that exchange in "
        "every layer wait for the slowest and end their steps together: cells that are all alike do not say "
        "that none is slow. Who waits for whom is in the profile (skew), slow clocks in the GPUs' figures.",
        "cell = value of the rank / median over ranks in the same step",
        "the ranks' step events",
    ),
    "published": Explanation(
        "Published TGS",
        "What XTuner's speed benchmark published for this preset: tokens per GPU per second, or oom where it "
        "ran out of memory. The detail pane has LLaMA-Factory's row beside it.",
        "as published; XTuner's own average over logged micro-batches",
        "presets/references/*.toml, each row with its source",
    ),
    "best": Explanation(
        "Best here",
        "The fastest run of exactly this work among the stored runs that ended well: runs with another "
        "engine, length, number of ranks or --set are not this preset's. Rehearsals and emulated runs do not "
        "count.",
        "largest median TGS over runs with status ok",
        "result.json of the runs folder",
    ),
    "fits": Explanation(
        "Fits this machine",
        "Whether the ranks can be started here: as many GPUs as the preset has ranks, or for a CPU preset "
        "memory for weights, gradients and optimizer states.",
        "GPUs there >= ranks; CPU: 16 bytes · parameters + 0.7 GiB · ranks <= free memory",
        "NVML, or the kernel driver's list; /proc/meminfo",
    ),
    "ratio": Explanation(
        "Ratio to the base",
        "TGS over the base row's TGS, printed only where the rows measure the same thing. A difference is "
        "significant when the interval excludes 1 and, with samples enough, Mann–Whitney's p < 5 %.",
        "ratio = median TGS / base's median TGS; both intervals joined in quadrature, in logarithms",
        "Conover, Practical Nonparametric Statistics, 5.1",
    ),
    "profile_share": Explanation(
        "Share of the step",
        "The step is split so that each instant counts once: work first, then communication that nothing "
        "hides, then idle. The shares add up to 100 %.",
        "time of the part / profiled step window, mean over steps (and ranks)",
        "the ranks' profiler traces; profiled steps are slower and never give TGS",
    ),
    "profile_exposed": Explanation(
        "Exposed communication",
        "Time in flight while the GPU computed nothing: what faster links or more overlap would save.",
        "|communication| − |communication ∩ compute|, over merged intervals",
        "the ranks' profiler traces",
    ),
    "profile_hidden": Explanation(
        "Hidden communication",
        "Time in flight behind compute: it costs no step time.",
        "|communication ∩ compute|, over merged intervals",
        "the ranks' profiler traces",
    ),
    "profile_kernel": Explanation(
        "Kernel and operator time",
        "Time per step of all its calls; for an operator its self time.",
        "Σ duration of its calls / profiled steps",
        "the ranks' profiler traces",
    ),
    "profile_tflops": Explanation(
        "Achieved TFLOPs of a kernel",
        "Only for attention and GEMM whose shapes the trace records, beside the device's dense bf16 peak.",
        "FLOPs from the recorded shapes / duration",
        "the ranks' profiler traces (record_shapes); presets/hardware for the peak",
    ),
    "profile_bandwidth": Explanation(
        "Bus bandwidth",
        "Bytes that crossed the rank's link over the time in flight, beside the link's peak if known.",
        _bus_formulas(),
        "Collective name and sizes in the trace; presets/hardware for the peak",
    ),
    "status": Explanation(
        "Status of a run",
        "ok: ended well and all integrity checks passed. oom, crashed, stalled, cancelled, preempted, "
        "refused: how it ended otherwise; what was measured is kept. invalid: its number must not be used.",
        "outcome of the supervisor, then the ranks' errors, then the integrity checks",
        "outcome.json and the event files",
    ),
    "gpu": Explanation(
        "GPU state",
        "Utilisation, power, temperature and clock as the driver reports them, about once a second. "
        "A throttled GPU says why its clocks are held down.",
        "the newest sample of each rank",
        "NVML in each rank",
    ),
}
"""Figure -> its text, without inputs."""


def explain(figure: str, view: RunView, headline: Headline) -> Explanation | None:
    """The explanation of one live figure with the values that went into it; None for an unknown one."""
    if figure.startswith("tflops:"):
        return _tflops(figure.partition(":")[2], view, headline)
    text = TEXTS.get(figure)
    if text is None:
        return None
    inputs = _INPUTS.get(figure, _no_inputs)(view, headline)
    return Explanation(text.title, text.meaning, text.formula, text.source, inputs)


def _tflops(convention: str, view: RunView, headline: Headline) -> Explanation | None:
    if convention not in FORMULAS:
        return None
    preset = view.plan.preset
    per_token = flops_per_token(
        convention, preset.model, headline.attended_len, preset.training.checkpointing
    )
    inputs = [
        ("FLOPs per token", f"{per_token:.4g}"),
        ("TGS", _rate(headline.tgs.median)),
        ("attended length S", f"{headline.attended_len:,.0f}"),
        ("model", f"{preset.model.name}, {preset.model.num_layers} layers, h {preset.model.hidden_size}"),
        ("checkpointing", preset.training.checkpointing),
    ]
    return Explanation(
        f"TFLOPs per GPU, {convention} convention",
        "TGS times the FLOPs one token costs. No two tools count the same, so each figure names its "
        "convention; only TGS compares across tools.",
        f"FLOPs per token = {FORMULAS[convention]}",
        "see the README's table of conventions",
        inputs,
    )


def _no_inputs(view: RunView, headline: Headline) -> list[tuple[str, str]]:
    return []


def _tgs_inputs(view: RunView, headline: Headline) -> list[tuple[str, str]]:
    tgs = headline.tgs
    return [
        ("measured steps n", str(tgs.n)),
        ("GPUs", str(view.live.world)),
        ("Σ tokens", f"{view.live.measured_tokens:,}"),
        ("Σ seconds", units.duration(view.live.measured_s)),
        ("Σ tokens / Σ time", _rate(tgs.total)),
        ("newest step", _rate(headline.newest_tgs)),
    ]


def _ci_inputs(view: RunView, headline: Headline) -> list[tuple[str, str]]:
    samples = headline.tgs.samples
    inputs = [("n", str(headline.tgs.n))]
    if samples:
        inputs += [("smallest", units.rate(min(samples))), ("largest", units.rate(max(samples)))]
    return inputs


def _verdict_inputs(view: RunView, headline: Headline) -> list[tuple[str, str]]:
    inputs = [("median TGS", _rate(headline.tgs.median)), ("device", headline.device)]
    for row, verdict in zip(view.references, headline.verdicts, strict=True):
        published = units.as_published(row.tgs) if row.tgs is not None else row.status
        reasons = f": {'; '.join(verdict.reasons)}" if verdict.reasons else ""
        inputs.append((row.system, f"{published} → {verdict.verdict}{reasons}"))
        inputs.append(("source", row.source))
    return inputs


def _mfu_inputs(view: RunView, headline: Headline) -> list[tuple[str, str]]:
    gpu = find_gpu(headline.device)
    linear, model = view.plan.preset.linear, headline.tflops.get("model")
    peak = "unknown, and none is guessed"
    if gpu and figures.peak_tflops(gpu, linear):
        peak = f"{figures.peak_tflops(gpu, linear):g} TFLOPs of {linear or 'bf16'} ({gpu.source})"
    inputs = [("model TFLOPs", _rate(model)), ("device", headline.device), ("peak", peak)]
    if linear and (of_bf16 := figures.mfu(model, gpu)) is not None:
        inputs.append(("of the bf16 peak", units.percent(of_bf16)))
    return inputs


def _step_inputs(view: RunView, headline: Headline) -> list[tuple[str, str]]:
    preset = view.plan.preset
    return [
        ("measured steps", str(view.live.step_samples.num_told)),
        ("micro-steps per step", str(preset.accumulation)),
        ("tokens per step, all ranks", f"{preset.tokens_per_step:,}"),
    ]


def _mem_inputs(view: RunView, headline: Headline) -> list[tuple[str, str]]:
    newest = [(state.mem_peak, state.rank) for state in view.live.ranks if state.mem_peak is not None]
    kind = "resident set size (CPU)" if headline.mem_is_rss else "CUDA allocator"
    inputs = [("measured as", kind), ("ranks that reported", str(len(newest)))]
    if newest:
        num_bytes, rank = max(newest, key=lambda pair: pair[0])
        inputs.append(("largest in the newest step", f"rank {rank}: {units.gib(num_bytes)}"))
    return inputs


def _eta_inputs(view: RunView, headline: Headline) -> list[tuple[str, str]]:
    step = "-" if headline.step_s is None else units.duration(headline.step_s)
    return [
        ("planned steps", str(headline.total_steps)),
        ("finished steps", str(headline.steps_done)),
        ("median step time", step),
    ]


def _rate(value: float | None) -> str:
    return "-" if value is None else units.rate(value)


_INPUTS = {
    "tgs": _tgs_inputs,
    "tgs_ci": _ci_inputs,
    "verdict": _verdict_inputs,
    "mfu": _mfu_inputs,
    "step_s": _step_inputs,
    "mem": _mem_inputs,
    "eta": _eta_inputs,
}
