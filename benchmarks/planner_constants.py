"""Writes the planner's constants to presets/constants and presets/links.

`python -m benchmarks.planner_constants [--write]`: fitted on published rows (planner_fit), with intervals
from sources that were left out (planner_spreads), and carried over to GPUs that nobody published rows of.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.planner_fit import (
    FAMILIES,
    NAMES,
    Parameters,
    all_rows,
    constants,
    errors,
    family,
    fit_link,
    fit_parameters,
    with_stack,
)  # fmt: skip
from benchmarks.planner_kernels import Kernels, attention_speeds
from benchmarks.planner_rows import XTUNER, Row, read_rows
from benchmarks.planner_spreads import spreads_of
from tgsbench.planner.calibrate import constants_toml, link_toml
from tgsbench.presets import catalog
from tgsbench.schema.hardware import Constants, Known, Spread

PRESETS = Path(__file__).resolve().parents[1] / "presets"


class Carried(Struct, frozen=True):
    """A GPU without rows: the family its constants are scaled from, and why."""

    gpus: tuple[str, ...]
    source: str
    why: str
    doubt: float
    """How far, as a share, its true speed may lie from what the scaling gives; an assumption."""


CARRIED = {
    "ampere_pcie": Carried(("A100-PCIE-80GB",), "ampere", "the SXM card's, by GEMM ceiling", 0.1),
    "hopper_pcie": Carried(("H100-PCIE-80GB",), "hopper", "the SXM card's, by GEMM ceiling", 0.1),
    "hopper_h20": Carried(("H20-SXM-96GB",), "hopper", "H100's, by peak", 0.15),
    "blackwell": Carried(("B200-SXM-180GB",), "hopper", "H100's, by GEMM ceiling", 0.2),
    "blackwell_b300": Carried(("B300-SXM-270GB",), "hopper", "H100's, by GEMM ceiling", 0.2),
    "blackwell_gb": Carried(("GB200-NVL72", "GB300-NVL72"), "hopper", "H100's, by GEMM ceiling", 0.2),
    "ada_l40s": Carried(("L40S-48GB",), "ampere", "A100's, by peak", 0.25),
    "ada_4090": Carried(("RTX-4090-24GB",), "ampere", "A100's, by peak", 0.25),
    "blackwell_5090": Carried(("RTX-5090-32GB",), "ampere", "A100's, by peak", 0.3),
    "blackwell_pro_6000": Carried(("RTX-PRO-6000-96GB",), "ampere", "A100's, by peak", 0.3),
    "cdna3_mi300x": Carried(("MI300X-192GB",), "hopper", "H100's, by GEMM ceiling", 0.35),
    "cdna3_mi325x": Carried(("MI325X-256GB",), "hopper", "H100's, by GEMM ceiling", 0.35),
    "cdna4_mi355x": Carried(("MI355X-288GB",), "hopper", "H100's, by GEMM ceiling", 0.35),
}
_ONLY_ON_HOPPER = ("flash3",)
_MORE_PROCESSORS = 148 / 132
"""B200's multiprocessors over H100's, at about one clock."""


def _attention_scale(kernel: str, found: Constants, name: str, scale: float) -> float:
    """FlashAttention 2 runs Ampere's instructions, so Blackwell's own tensor cores do not speed it up."""
    from_hopper = found.name == "hopper" and name.startswith("blackwell")
    return min(scale, _MORE_PROCESSORS) if from_hopper and kernel == "flash2" else scale


def carried_over(found: Constants, name: str, carried: Carried) -> Constants:
    """Constants for GPUs without published rows, scaled with the GEMM ceiling or the peak."""
    source, target = catalog.load_gpus()[found.gpus[0]], catalog.load_gpus()[carried.gpus[0]]
    by_ceiling = bool(target.gemm_ceiling_tflops)
    scale = (target.gemm_ceiling_tflops or target.bf16_tflops) / (
        source.gemm_ceiling_tflops if by_ceiling else source.bf16_tflops
    )
    attention = [
        replace(
            speed,
            forward_tflops=round(speed.forward_tflops * share, 1),
            backward_tflops=round(speed.backward_tflops * share, 1),
            source=f"{speed.source}; carried over from {source.name} times {share:.3f}",
        )
        for speed in found.attention
        for share in (_attention_scale(speed.kernel, found, name, scale),)
        if speed.kernel not in _ONLY_ON_HOPPER or name.startswith("hopper")
    ]
    return replace(
        found,
        name=name,
        gpus=list(carried.gpus),
        gemm_share=found.gemm_share * scale * source.bf16_tflops / target.bf16_tflops,
        power_w=0.0,
        attention=attention,
        carried_over=f"{carried.why}: no row of this GPU",
        stacks=[],
        residuals={},
    )


def _doubted(spreads: dict[Known, Spread], carried: Carried | None) -> dict[Known, Spread]:
    """The intervals with what scaling to another GPU adds."""
    doubt = math.log1p(carried.doubt) if carried else 0.0

    def wider(spread: Spread) -> Spread:
        below, above = (
            math.hypot(-math.log1p(-spread.below), doubt),
            math.hypot(math.log1p(spread.above), doubt),
        )
        return Spread(round(-math.expm1(-below), 3), round(math.expm1(above), 3))

    return {known: wider(spread) for known, spread in spreads.items()}


def main() -> None:
    """Fit, print, and with --write store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace presets/constants and presets/links")
    args = parser.parse_args()
    kernels, rows = attention_speeds(), all_rows()
    parameters = fit_parameters(rows, kernels)
    for name in NAMES:
        print(f"{name:<24} {getattr(parameters, name):8.4f}")
    for source, share in parameters.shares.items():
        overhead = parameters.overheads[source]
        print(f"{source:<44} product_share {share:.4f}, step_overhead_s {overhead:.3f}")
    spreads = spreads_of(rows, kernels)
    for known, spread in spreads.items():
        print(f"{known:<14} -{spread.below:.3f} +{spread.above:.3f}")
    files = _files(parameters, kernels, rows)
    files = {name: replace(f, spreads=_doubted(spreads, CARRIED.get(name))) for name, f in files.items()}
    xtuner = [with_stack(row, parameters, files["ampere"]) for row in read_rows(XTUNER)[0]]
    link = fit_link(files["ampere"], xtuner)
    print(f"gather {link.gather_gb_per_s} GB/s, all-to-all {link.all_to_all_gb_per_s} GB/s")
    if args.write:
        for name, found in files.items():
            (PRESETS / "constants" / f"{name}.toml").write_text(constants_toml(found), "utf-8")
        (PRESETS / "links" / f"{link.name}.toml").write_text(link_toml(link), "utf-8")


def _files(parameters: Parameters, kernels: Kernels, rows: Sequence[Row]) -> dict[str, Constants]:
    fitted = errors(rows, parameters, kernels)
    files = {}
    for name in FAMILIES:
        inside = [i for i, row in enumerate(rows) if family(row.gpu) == name]
        sizes = [abs(fitted[i]) for i in inside]
        sources = sorted({rows[i].source for i in inside})
        files[name] = replace(
            constants(name, parameters, kernels[name]),
            residuals={"fitted_mean": sum(sizes) / len(sizes), "fitted_worst": max(sizes)},
            stacks=sorted({rows[i].work.system.name for i in inside if rows[i].work.system.measured}),
            fitted_on=f"{len(inside)} published rows of {len(sources)} sources: {', '.join(sources)}",
        )
    return files | {name: carried_over(files[c.source], name, c) for name, c in CARRIED.items()}


if __name__ == "__main__":
    main()
