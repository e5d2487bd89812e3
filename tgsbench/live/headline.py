"""What the live screen says in figures: pure functions of the fold, the preset and the published rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from tgsbench import units
from tgsbench.live.fold import LiveRun
from tgsbench.live.stragglers import Silent, Straggler, find_silent, find_stragglers, silence_limit_s
from tgsbench.metrics import figures, reference
from tgsbench.metrics.progress import place, step_left_s
from tgsbench.metrics.result import attended_len, summarize
from tgsbench.presets.catalog import find_gpu, load_references
from tgsbench.schema.preset import Preset
from tgsbench.schema.reference import ReferenceRow
from tgsbench.schema.run import ReferenceVerdict, Tgs
from tgsbench.units import GIB


@dataclass(frozen=True)
class StepPlan:
    """What is known of a run before its first event."""

    preset: Preset
    total_steps: int
    """Warm-up, measured and profiled steps."""
    num_profile_steps: int = 0

    @classmethod
    def of(cls, preset: Preset, num_profile_steps: int = 0) -> StepPlan:
        """The plan of a preset whose capture recipe profiles `num_profile_steps` steps."""
        steps = preset.measure.warmup + preset.measure.steps + num_profile_steps
        return cls(preset, steps, num_profile_steps)


@dataclass(frozen=True)
class Headline:
    """The figures at the top of the live screen."""

    tgs: Tgs
    newest_tgs: float | None
    verdicts: tuple[ReferenceVerdict, ...]
    """One per published row of the preset, XTuner's first."""
    tflops: dict[str, float]
    mfu: float | None
    device: str
    attended_len: float
    phase: str
    phase_note: str
    steps_done: int
    total_steps: int
    elapsed_s: float
    eta_s: float | None
    step_s: float | None
    mem_peak_gib: float | None
    mem_is_rss: bool
    loss: float | None
    inside: str = ""
    """Where a step that takes long is, and how long it will go on; empty in short steps."""

    @property
    def verdict(self) -> ReferenceVerdict | None:
        """The first published row's verdict, or None when nothing is published."""
        return self.verdicts[0] if self.verdicts else None


@dataclass
class RunView:
    """A fold and its plan; recomputes the headline only when events came in."""

    plan: StepPlan
    live: LiveRun

    def __post_init__(self) -> None:
        self._headline: Headline | None = None
        self._at_event = -1
        self._tgs = Tgs()
        self._num_summed = 0

    @cached_property
    def references(self) -> list[ReferenceRow]:
        """Published rows of the preset, or of the one it rehearses."""
        preset = self.plan.preset
        return load_references().get(preset.rehearsal_of or preset.name, [])

    @property
    def device(self) -> str:
        """Device name as rank 0's driver reports it; the preset's until then."""
        hardware = self.plan.preset.hardware
        return self.live.ranks[0].device or hardware.gpu or hardware.device

    def headline(self) -> Headline:
        """The figures as of the newest event."""
        if self._headline is None or self._at_event != self.live.num_events:
            self._headline, self._at_event = self._compute(), self.live.num_events
        return self._headline

    def stragglers(self) -> list[Straggler]:
        """Ranks that were slow in each of the newest steps."""
        return find_stragglers(list(self.live.recent))

    def silent(self, now: float) -> list[Silent]:
        """Ranks that have gone quiet, at `now` on the reader's monotonic clock; none once the run is over."""
        live, measure = self.live, self.plan.preset.measure
        if not live.num_events or any(state.bye for state in live.ranks):
            return []
        return find_silent(
            [state.seen_at for state in live.ranks],
            [state.step for state in live.ranks],
            now=now,
            limit_s=silence_limit_s(measure.heartbeat_s, live.median_step_s),
        )

    def _compute(self) -> Headline:
        live, preset = self.live, self.plan.preset
        tgs = self._summary()
        attended = attended_len(preset, live.data)
        tflops: dict[str, float] = {}
        if tgs.median is not None:
            tflops = figures.tflops_by_convention(
                preset.model, attended, preset.training.checkpointing, tgs.median
            )
        step_s = _finite(live.median_step_s)
        slowest = next((s for s in live.ranks if s.phase == live.phase), live.ranks[0])
        return Headline(
            tgs=tgs,
            newest_tgs=live.tgs.y[-1] if live.tgs.y else None,
            verdicts=tuple(
                reference.compare_with_published(preset, self.device, tgs, row) for row in self.references
            ),
            tflops=tflops,
            mfu=figures.mfu(tflops.get("model"), find_gpu(self.device), preset.linear),
            device=self.device,
            attended_len=attended,
            phase=live.phase,
            phase_note=slowest.note,
            steps_done=live.last_closed_step + 1,
            total_steps=max(self.plan.total_steps, live.last_closed_step + 1),
            elapsed_s=live.elapsed_s,
            eta_s=self._eta_s(step_s),
            step_s=step_s,
            mem_peak_gib=max(live.mem_peak.high) / GIB if live.mem_peak.high else None,
            mem_is_rss=preset.hardware.device == "cpu",
            loss=live.loss.y[-1] if live.loss.y else None,
            inside=inside_text(live, step_s),
        )

    def _summary(self) -> Tgs:
        live = self.live
        if self._num_summed != live.tgs_samples.num_told:
            self._num_summed = live.tgs_samples.num_told
            self._tgs = summarize(live.tgs_samples, live.measured_tokens, live.measured_s, live.world)
        return self._tgs

    def _eta_s(self, step_s: float | None) -> float | None:
        left = self.plan.total_steps - self.live.last_closed_step - 1
        if left < 0 or self.live.phase == "teardown":
            return None
        beat = self.live.long_step
        if beat is not None and (own_s := step_left_s(beat, step_s)) is not None:
            return own_s + (left - 1) * (step_s if step_s is not None else beat.step_s + own_s)
        return None if step_s is None else left * step_s


def inside_text(live: LiveRun, step_s: float | None) -> str:
    """Place in the present step and time until its end, once it takes long; empty else.

    `step_s`: seconds a step took so far, None before the first.
    """
    beat = live.long_step
    if beat is None:
        return ""
    left_s = step_left_s(beat, step_s)
    to_go = f", {units.duration(left_s)} to its end" if left_s else ""
    return f"step {beat.step + 1}: {place(beat)}{to_go}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
