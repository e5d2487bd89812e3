"""Where ranks are inside a step, by their heartbeats: in words, as a share, and how long to wait for more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from tgsbench.schema.events import Heartbeat
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import Preset

LONG_STEP_S = 5.0
"""A step that takes longer is shown from inside."""
_FORWARD_SHARE = 1 / 3
"""Of a micro-step; a backward computes twice as much."""
_PATIENCE = 3.0
"""A wait is too long at this many times what was forecast, or seen before."""
_BEATS = 3.0
"""Heartbeats that a wait lasts at least: progress is seen no sooner than the next one."""


def patience_s(preset: Preset, forecast: Forecast | None, longest_wait_s: float = 0.0) -> float:
    """Seconds without progress after which a run is stalled; never below `measure.stall_s`.

    `forecast`: the one in run.json; `longest_wait_s`: the longest wait that ended in progress.
    """
    forecast_s = max(0.0, forecast.step_s or 0.0) if forecast else 0.0
    if not preset.is_external:  # whose log tells of whole steps only
        forecast_s /= preset.accumulation
    beats_s = _BEATS * max(1.0, preset.measure.heartbeat_s)
    return max(preset.measure.stall_s, beats_s, _PATIENCE * max(forecast_s, longest_wait_s))


def share_done(beat: Heartbeat) -> float:
    """Share of the optimizer step that lies behind a rank, 0 to 1; 0 where its micro-step is not known."""
    if beat.num_micro_steps <= 0 or not 0 < beat.micro_step <= beat.num_micro_steps:
        return 0.0
    if beat.doing == "optimizer":
        return 1.0
    return (beat.micro_step - 1 + _share_of_micro_step(beat)) / beat.num_micro_steps


def _share_of_micro_step(beat: Heartbeat) -> float:
    behind = min(1.0, max(0, beat.layer - 1) / max(1, beat.num_layers))
    if beat.doing == "forward":
        return _FORWARD_SHARE * behind
    if beat.doing == "backward":
        to_go = min(1.0, beat.layer / beat.num_layers) if beat.layer and beat.num_layers else 1.0
        return 1.0 - (1 - _FORWARD_SHARE) * to_go
    return 0.0


def step_left_s(beat: Heartbeat, step_s: float | None = None) -> float | None:
    """Seconds until the step's end: `step_s` is what steps took so far, else the pace within this one."""
    done = share_done(beat)
    if step_s is None:
        step_s = beat.step_s / done if done > 0 else None
    return None if step_s is None else max(0.0, step_s - beat.step_s)


def least_far(beats: Iterable[Heartbeat]) -> Heartbeat | None:
    """The heartbeat of the rank that the others wait for."""
    return min(beats, key=lambda beat: (beat.step, beat.ticks), default=None)


def place(beat: Heartbeat) -> str:
    """Where in its step a rank is: "micro-step 5 of 64, backward of layer 12 of 80, in an all-to-all"."""
    if beat.num_micro_steps <= 0:
        return ""
    parts = [f"micro-step {beat.micro_step} of {beat.num_micro_steps}"] if beat.doing != "optimizer" else []
    layer = f" of layer {beat.layer} of {beat.num_layers}" if beat.layer else ""
    parts += [f"{beat.doing}{layer}"] if beat.doing else []
    parts += [f"in the {beat.collective}"] if beat.collective else []
    return ", ".join(parts)


def behind(beats: Mapping[int, Heartbeat], suspected: Collection[int]) -> list[int]:
    """Ranks that the others wait for: those suspected, else those that got the least done; maybe all."""
    named = [rank for rank in sorted(beats) if rank in suspected]
    first = least_far(beats.values())
    if named or first is None:
        return named
    return [rank for rank in sorted(beats) if beats[rank].ticks == first.ticks]
