"""How far a planned TGS may be off: an 80 % interval by what was measured of the stack and the GPU.

The widths come from published sources that were left out of the fit (benchmarks/planner_spreads.py), so they
hold for a stack that the planner has never seen.
"""

from __future__ import annotations

import math

from tgsbench.planner.machine import Machine
from tgsbench.planner.time import StepEstimate
from tgsbench.planner.workload import StepWorkload
from tgsbench.schema.forecast import TgsRange, Verdict
from tgsbench.schema.hardware import Constants, Known, Spread
from tgsbench.units import percent

NETWORK_SLOWER, NETWORK_FASTER = 1.0, 0.3
"""What the network takes may be twice as long as planned, or 0.7 times: rates fitted on two rows of the
reference cluster miss its other rows by as much as a datasheet's rates miss other clusters'."""
TIGHT_SHARE = 0.2
"""More of TGS that a tight memory may cost: the slowest tight calibration rows lost 18 to 23 %."""

_SAID: dict[Known, str] = {
    "stack and GPU": "measured on this stack and GPU",
    "stack": "stack measured on another GPU",
    "GPU": "GPU measured, this stack not",
    "neither": "neither this stack nor this GPU measured",
}
_NETWORK_ITEMS = ("gather_exposed", "all_to_all_network", "gather_step", "ring_exposed", "experts_network")


def known_of(work: StepWorkload, constants: Constants) -> Known:
    """What was measured: this system on this GPU, the system or the GPU elsewhere, or neither."""
    here = work.system.name in constants.stacks
    elsewhere = here or work.system.measured
    if constants.carried_over:
        return "stack" if elsewhere else "neither"
    return "stack and GPU" if here else "stack" if elsewhere else "GPU"


def spread_of(known: Known, constants: Constants) -> Spread:
    """The interval for what is known; constants of older files have one for all."""
    return constants.spreads.get(known, Spread(constants.error_share, constants.error_share))


def error_bar(
    work: StepWorkload, machine: Machine, time: StepEstimate, tgs: float, verdict: Verdict
) -> tuple[TgsRange, str]:
    """Low, estimated and high TGS, and what the interval is made of.

    The stack's and the GPU's share, what the network may take more or less, what a tight memory costs and
    what longer documents would are independent, so they add as squares of logarithms.
    """
    known = known_of(work, machine.fitted)
    spread = spread_of(known, machine.fitted)
    share = network_share(work, machine, time)
    slower, faster = math.log1p(NETWORK_SLOWER * share), -math.log1p(-NETWORK_FASTER * share)
    tight = TIGHT_SHARE if verdict in ("tight", "out of memory") else 0.0
    longer = (work.maybe_longer - 1) * attention_share(time)
    below = math.hypot(-math.log1p(-spread.below), slower, -math.log1p(-tight), math.log1p(longer))
    above = math.hypot(math.log1p(spread.above), faster)
    parts = [f"{_SAID[known]} -{percent(spread.below)} +{percent(spread.above)}"]
    parts += [f"network {percent(share)} of the step"] if share > 0.005 else []
    parts += [f"tight memory -{percent(tight)}"] if tight else []
    parts += [f"documents of unknown length -{percent(longer / (1 + longer))}"] if longer > 0.005 else []
    return TgsRange(estimate=tgs, low=tgs * math.exp(-below), high=tgs * math.exp(above)), ", ".join(parts)


def attention_share(time: StepEstimate) -> float:
    """Share of the step that the attention kernels take."""
    seconds = sum(seconds for name, seconds in time.items.items() if name.startswith("attention_"))
    return seconds / time.step_s


def network_share(work: StepWorkload, machine: Machine, time: StepEstimate) -> float:
    """Share of the step that waits for links between nodes; 0 inside one node."""
    if work.world <= max(work.gpus_per_node, machine.gpu.nvlink_gpus):
        return 0.0
    return sum(time.items.get(name, 0.0) for name in _NETWORK_ITEMS) / time.step_s
