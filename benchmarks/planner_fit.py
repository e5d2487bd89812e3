"""The planner's shipped constants, fitted on published rows; planner_constants writes them to files.

Attention speeds come from attention_kernels.csv. Five hardware constants, two of llm-foundry's kernels and
one share for each stack come from the published rows of every source; what single rows could not tell apart
is fixed at a published figure (`FIXED`). The link of the reference cluster comes from two of its rows.
Nothing here knows a model by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.planner_kernels import Kernels
from benchmarks.planner_rows import CALIBRATION, LLAMA_FACTORY, OTHERS, XTUNER, Row, link_rows, read_rows
from tgsbench.metrics.figures import tgs_of_gpu
from tgsbench.planner.interval import error_bar
from tgsbench.planner.least_squares import fit
from tgsbench.planner.machine import Machine
from tgsbench.planner.memory import memory_plan
from tgsbench.planner.time import step_time
from tgsbench.planner.verdict import verdict_of
from tgsbench.presets import catalog
from tgsbench.schema.hardware import AttentionSpeed, Constants, GpuSpec, Link
from tgsbench.systems.costs import System

FAMILIES = {
    "ampere": ("A100-SXM4-80GB", "A100-SXM4-40GB"),
    "hopper": ("H100-SXM5-80GB", "H100-HBM2E-96GB-500W", "H200-SXM-141GB"),
}
"""Constants files that are measured, and the GPUs they hold for."""
LINK_ROWS = link_rows()
"""Constant of the reference cluster's unpublished network -> the one row that it may be fitted on."""
FASTEST_GB_PER_S = 500.0
"""Rates are searched up to here, beyond any network of today: a row that needs it is explained by none."""
FIXED = {
    "stream_share": 0.85,
    "nvlink_share": 0.8,
    "network_share": 0.85,
    "ring_decline": 0.937,
    "power_exponent": 0.5,
}
HALF_WIDTH = {"ampere": 110.0, "hopper": 280.0}
"""Inner width of a product that its start and end cost as much as: H100's from XLA's table, A100's less by
the rate of one multiprocessor (2.9 against 7.5 TFLOPs), for they take the same time."""
SOURCES = {
    "gemm_share": "fitted on benchmarks/data/calibration.csv, other_stacks.csv",
    "fp8_gain": "fitted on the FP8 rows of benchmarks/data",
    "gather_contention": "fitted on benchmarks/data/calibration.csv, other_stacks.csv",
    "straggler_share": "fitted on benchmarks/data/calibration.csv, other_stacks.csv (8 to 1,024 GPUs)",
    "product_half_width": "openxla/xla default_matmul_perf_table.txtpb, H100 by inner width; A100 scaled",
    "ring_decline": "NVIDIA/nccl#1229: reduce-scatter falls from 360 to 260 GB/s from 4 to 128 nodes",
    "power_exponent": "assumed: dynamic power grows with the square of the clock near the limit",
    "stream_share": "assumed: stream benchmarks reach 0.85 to 0.9 of the datasheet's bandwidth",
    "nvlink_share": "assumed: nccl-tests' bus bandwidth of large collectives, 230 to 240 of 300 GB/s on A100",
    "network_share": "assumed: what large RDMA transfers reach of the cards' line rate",
    "launch_us": "assumed: eager PyTorch takes 4 to 8 µs a launch",
    "attention": "benchmarks/data/attention_kernels.csv",
}
STACKS_DIFFER, OVERHEADS_DIFFER = 0.15, 2.0
"""How far, in e-folds, a stack's products and its work between steps may lie from another's."""


class Parameters(Struct, frozen=True, kw_only=True):
    """What published rows determine: hardware, llm-foundry's kernels, and each stack's share."""

    gemm_share_ampere: float = 0.85
    gemm_share_hopper: float = 0.75
    fp8_gain: float = 1.7
    gather_contention: float = 1.5
    straggler_share: float = 0.012
    foundry_logits: float = 18.0
    foundry_attention: float = 0.5
    """Its kernel computes the masked half too."""
    broadcast_hop_us: float = 4.0
    """Of each further rank in InternEvo's broadcasts; starts at NCCL's own figure for LL128 between nodes."""
    shares: dict[str, float] = {}
    """Source -> speed of its stack's products beside the average one's; 1 for a source never seen."""
    overheads: dict[str, float] = {}
    """Source -> seconds between two steps of its stack."""


_LOOSE = {"broadcast_hop_us": 1.0}
"""Constants whose start is right to a factor only, and how far in e-folds it may be off."""
NAMES = tuple(name for name in Parameters.__struct_fields__ if name not in ("shares", "overheads"))


def all_rows() -> list[Row]:
    """Every published row with a TGS that constants may be fitted on.

    The two rows that the reference cluster's link is solved for are not among them.
    """
    rows = [row for path in (CALIBRATION, *OTHERS) for row in read_rows(path)[0]]
    for path in (XTUNER, LLAMA_FACTORY):
        used = LINK_ROWS.values() if path == XTUNER else ()
        rows += [row for row in read_rows(path)[0] if row.label not in used]
    gpus = {gpu for gpus in FAMILIES.values() for gpu in gpus}
    return [row for row in rows if row.tgs is not None and row.gpu.name in gpus]


UNSEEN = System(name="unseen", parameter_bytes=4, gradient_bytes=4, optimizer_bytes=8)
"""What is assumed of a stack that nothing was measured of."""


def family(gpu: GpuSpec) -> str:
    """Constants family of a GPU of the rows."""
    return next(name for name, gpus in FAMILIES.items() if gpu.name in gpus)


def stack(row: Row, parameters: Parameters) -> System:
    """The stack of a row with what was fitted of it."""
    share = parameters.shares.get(row.source, 1.0)
    overhead = parameters.overheads.get(row.source, UNSEEN.step_overhead_s)
    system = replace(row.work.system, product_share=share, step_overhead_s=overhead)
    if system.name == "internevo":
        return replace(system, broadcast_hop_s=parameters.broadcast_hop_us * 1e-6)
    if system.name != "llm_foundry":
        return system
    traffic = replace(system.traffic, logits=parameters.foundry_logits)
    return replace(system, traffic=traffic, attention_share=parameters.foundry_attention)


def constants(name: str, parameters: Parameters, attention: list[AttentionSpeed]) -> Constants:
    """One family's constants."""
    return Constants(
        name=name,
        gpus=list(FAMILIES[name]),
        gemm_share=getattr(parameters, f"gemm_share_{name}"),
        product_half_width=HALF_WIDTH[name],
        power_w=catalog.load_gpus()[FAMILIES[name][0]].power_w,
        gather_contention=parameters.gather_contention,
        straggler_share=parameters.straggler_share,
        fp8_gain=parameters.fp8_gain if name == "hopper" else 1.0,
        attention=attention,
        sources=SOURCES,
        **FIXED,
    )


def predicted_tgs(row: Row, found: Constants) -> float:
    """TGS of a row."""
    time = step_time(row.work, Machine(row.gpu, row.link, found))
    return tgs_of_gpu(row.work.tokens_per_gpu, time.step_s)


def with_stack(row: Row, parameters: Parameters, found: Constants) -> Row:
    """The row with its fitted stack, and with a kernel that has a speed."""
    known = [speed.kernel for speed in found.attention]
    kernel = row.work.kernel if row.work.kernel in known else known[0]
    return replace(row, work=replace(row.work, system=stack(row, parameters), kernel=kernel))


Seen = dict[tuple[object, ...], float]
"""Errors that are known, by row and the parameters that it feels: a fit moves one stack at a time."""


def errors(
    rows: Sequence[Row], parameters: Parameters, kernels: Kernels, seen: Seen | None = None
) -> list[float]:
    """Predicted over published TGS, less one; `seen` keeps them from call to call over the same rows."""
    by_family = {name: constants(name, parameters, kernels[name]) for name in FAMILIES}
    shared = tuple(getattr(parameters, name) for name in NAMES)
    known = {} if seen is None else seen
    out = []
    for index, row in enumerate(rows):
        own = parameters.shares.get(row.source), parameters.overheads.get(row.source)
        key = (index, *own, *shared)
        if key not in known:
            found = by_family[family(row.gpu)]
            assert row.tgs is not None
            known[key] = predicted_tgs(with_stack(row, parameters, found), found) / row.tgs - 1
        out.append(known[key])
    return out


NOISE, NOISE_ACROSS = 0.03, 0.06
"""What rows of one stack scatter around a plan inside one node and across nodes, in logarithms."""


def row_weight(row: Row, kernels: Kernels) -> float:
    """What a row tells of constants: less, the more of it an unknown network or tight memory may explain."""
    found = constants(family(row.gpu), Parameters(), kernels[family(row.gpu)])
    below, _ = explained(with_stack(row, Parameters(), found), found)
    across = row.work.world > row.work.gpus_per_node
    return NOISE / math.hypot(NOISE_ACROSS if across else NOISE, below)


def explained(row: Row, found: Constants) -> tuple[float, float]:
    """How far network and memory let a row lie below and above its plan, in logarithms."""
    machine = Machine(row.gpu, row.link, replace(found, spreads={}, error_share=0.0))
    time, verdict = step_time(row.work, machine), verdict_of(memory_plan(row.work), row.gpu)
    bar, _ = error_bar(row.work, machine, time, 1.0, verdict)
    return -math.log(bar.low), math.log(bar.high)


def fit_parameters(rows: Sequence[Row], kernels: Kernels) -> Parameters:
    """Fit on these rows; a family without rows takes the other's share of its GEMM ceiling."""
    present = {family(row.gpu) for row in rows}
    free = [n for n in NAMES if not (n.startswith("gemm_share_") and n[11:] not in present)]
    if not any(row.work.fp8 for row in rows):
        free.remove("fp8_gain")
    if not any(row.work.system.name == "llm_foundry" for row in rows):
        free = [name for name in free if not name.startswith("foundry_")]
    if not any(row.work.system.name == "internevo" for row in rows):
        free.remove("broadcast_hop_us")
    sources = sorted({row.source for row in rows})

    def made(values: list[float]) -> Parameters:
        shares = dict(zip(sources, values[len(free) :], strict=False))
        overheads = dict(zip(sources, values[len(free) + len(sources) :], strict=True))
        named = dict(zip(free, values, strict=False))
        return Parameters(**named, shares=shares, overheads=overheads)

    weights = [row_weight(row, kernels) for row in rows]

    seen: Seen = {}

    def residuals(values: list[float]) -> list[float]:
        found = errors(rows, made(values), kernels, seen)
        return [w * math.log1p(e) for w, e in zip(weights, found, strict=True)]

    start = [getattr(Parameters(), n) for n in free] + [1.0] * len(sources)
    start += [UNSEEN.step_overhead_s] * len(sources)
    sigma = [_LOOSE.get(name, 0.3) for name in free] + [STACKS_DIFFER] * len(sources)
    sigma += [OVERHEADS_DIFFER] * len(sources)
    found = made(fit(residuals, start, sigma, rounds=15).values)
    for name in FAMILIES.keys() - present:
        other = next(iter(present))
        share = getattr(found, f"gemm_share_{other}") * _ceiling(name) / _ceiling(other)
        found = replace(found, **{f"gemm_share_{name}": share})
    return found


def _ceiling(name: str) -> float:
    """Best published product of a family over its peak."""
    gpu = catalog.load_gpus()[FAMILIES[name][0]]
    return gpu.gemm_ceiling_tflops / gpu.bf16_tflops


def left_out(rows: Sequence[Row], kernels: Kernels, group: Callable[[Row], object]) -> list[float]:
    """Errors of every row when its whole group was kept out of the fit, in the order of the rows."""
    values = sorted({group(row) for row in rows}, key=str)
    parts = []
    for value in values:
        inside = [i for i, row in enumerate(rows) if group(row) == value]
        parts.append(([i for i, row in enumerate(rows) if group(row) != value], inside))
    return _judged(rows, kernels, parts)


def left_out_with_gpu(rows: Sequence[Row], kernels: Kernels) -> list[float]:
    """Errors of every row when neither its source nor its GPU family was in the fit."""
    pairs = sorted({(row.source, family(row.gpu)) for row in rows})
    parts = []
    for source, name in pairs:
        inside = [i for i, r in enumerate(rows) if (r.source, family(r.gpu)) == (source, name)]
        fit_on = [i for i, r in enumerate(rows) if r.source != source and family(r.gpu) != name]
        parts.append((fit_on, inside))
    return _judged(rows, kernels, parts)


def _judged(
    rows: Sequence[Row], kernels: Kernels, parts: Iterable[tuple[list[int], list[int]]]
) -> list[float]:
    found: dict[int, float] = {}
    for fit_on, inside in parts:
        parameters = fit_parameters([rows[i] for i in fit_on], kernels)
        found |= dict(zip(inside, errors([rows[i] for i in inside], parameters, kernels), strict=True))
    return [found[i] for i in range(len(rows))]


# The reference cluster's network


def fit_link(found: Constants, rows: Sequence[Row]) -> Link:
    """Gather and all-to-all rates that reproduce the two rows they may be fitted on."""
    link = Link(
        name="reference_a100",
        description="Network of the cluster behind the XTuner and LLaMA-Factory rows; never published",
        inter_node_gb_per_s=25.0,
        gather_gb_per_s=12.0,
        all_to_all_gb_per_s=1.5,
        fitted_on=" and ".join(LINK_ROWS.values()) + " of benchmarks/data/xtuner_speed_benchmark.csv",
        source="benchmarks/planner_fit.py; the card's figure is the datasheet default, and unknown here",
    )
    by_label = {row.label: row for row in rows}
    for _ in range(4):
        for constant, label in LINK_ROWS.items():
            link = solve_rate(link, constant, by_label[label], found)
    return link


def solve_rate(link: Link, key: str, row: Row, found: Constants) -> Link:
    """Bisect one rate so that the row comes out as published."""
    low, high = 0.05, FASTEST_GB_PER_S
    for _ in range(60):
        middle = math.sqrt(low * high)
        tried = replace(link, **{key: middle})
        assert row.tgs is not None
        faster = predicted_tgs(replace(row, link=tried), found) > row.tgs
        low, high = (low, middle) if faster else (middle, high)
    return replace(link, **{key: round(math.sqrt(low * high), 3)})


# Carrying over to GPUs without rows
