"""Headless progress: one plain line per step; on a terminal a bar (cli/progress_bar.py)."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Protocol, TextIO

from tgsbench import units
from tgsbench.cli import diagnostics, output
from tgsbench.events.step_columns import RankBatch, rank_batches
from tgsbench.launch.narration import Narrator
from tgsbench.live.fold import LiveRun
from tgsbench.live.follow import Feed, add_round
from tgsbench.live.headline import inside_text
from tgsbench.live.stragglers import suspects
from tgsbench.metrics import figures
from tgsbench.metrics.progress import share_done
from tgsbench.metrics.step_total import StepTotal
from tgsbench.presets.recipes import load_recipe, num_profile_steps
from tgsbench.schema.events import Depth, Event, Phase, Warn
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import VirtualGpu


class RunProgress(Protocol):
    """What headless output does with a run's events."""

    def __enter__(self) -> RunProgress: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def narrate(self, line: str) -> None:
        """Print one line that is no data."""
        ...

    def update(self, events: list[Event]) -> None:
        """Show what new events say."""
        ...

    def follow(self, feed: Feed) -> None:
        """Show all that a feed has now."""
        ...


def progress_for(preset: Preset, to_stderr: bool, virtual: VirtualGpu | None = None) -> RunProgress:
    """Rich progress where a person looks, plain lines elsewhere."""
    stream: TextIO = sys.stderr if to_stderr else sys.stdout
    if stream.isatty():
        from tgsbench.cli.progress_bar import RichProgress  # rich: a third of this command's start

        return RichProgress(preset, stream, virtual)
    return PlainProgress(preset, to_stderr, virtual)


NUM_MARKS = 10
"""Lines about the inside of a step that takes long, at most: a log of hours stays readable."""
_MAX_SUSPECTS = 8
"""Named at once; more at the same time have a cause in common."""


class Said(NamedTuple):
    """What there is to show of one round of events."""

    suspicions: list[str]
    notices: list[Event]
    totals: list[StepTotal]
    """Steps that all ranks have reported by now."""


class _Fold:
    """Folds a run's events; hands out what is new."""

    def __init__(self, preset: Preset, virtual: VirtualGpu | None = None) -> None:
        self.preset = preset
        self._virtual = virtual
        recipe = preset.profile and load_recipe(preset.profile)
        self._num_profiled = num_profile_steps(recipe) if recipe else 0
        alone = virtual.rank if virtual else None
        self._live = LiveRun(preset.world_size if alone is None else 1, alone)
        self._named: set[int] = set()

    def add(self, batches: Iterable[RankBatch]) -> Said:
        """Take new events in."""
        notices, closed = add_round(self._live, batches)
        totals = [step.total for step in closed if step.is_complete]
        return Said(self._suspicions(), notices, totals)

    def poll(self, feed: Feed) -> Iterator[Said]:
        """Take in all that a feed has now."""
        caught_up = False
        while not caught_up:
            yield self.add(feed.batches(self._live.is_ahead))
            caught_up = feed.caught_up

    def _suspicions(self) -> list[str]:
        """Ranks that have begun to hold the others up or have gone silent; each is named once."""
        if self._live.front_step < 0:  # building and compiling silence a rank for long
            return []
        heartbeat_s = self.preset.measure.heartbeat_s
        found = suspects(self._live, time.monotonic(), heartbeat_s)
        fresh = [suspect for suspect in found if suspect.rank not in self._named]
        self._named.update(suspect.rank for suspect in fresh)
        return [f"warning: {suspect}" for suspect in fresh[:_MAX_SUSPECTS]]

    def inside(self) -> str:
        """Where a step that takes long is, and how long it will go on; empty in short steps."""
        live = self._live
        step_s = live.median_step_s
        return inside_text(live, step_s if math.isfinite(step_s) else None)

    @property
    def share_done(self) -> float:
        """Steps done, with the part of one that takes long."""
        beat = self._live.long_step
        return self._live.last_closed_step + 1 + (share_done(beat) if beat else 0.0)

    def figures(self, total: StepTotal) -> list[str]:
        """Step, phase, TGS, step time, memory, loss of one step: a line of 80 columns holds them.

        On a virtual GPU: host time and memory.
        """
        if self._virtual is not None:
            return [
                f"step {total.step + 1}/{self.num_steps}",
                f"{total.phase}",
                f"host {units.duration(total.step_s)}",
                f"mem {units.gib(total.mem_peak)}",
            ]
        tgs = figures.tgs(total.tokens, self.preset.world_size, total.step_s) or 0.0
        return [
            f"step {total.step + 1}/{self.num_steps}",
            f"{total.phase}",
            f"TGS {units.rate(tgs)}",
            f"{units.duration(total.step_s)}",
            f"mem {units.gib(total.mem_peak)}",
            f"loss {total.loss or 0.0:.4f}",
        ]

    @property
    def num_steps(self) -> int:
        """Warm-up, measured and profiled steps."""
        return self.preset.measure.warmup + self.preset.measure.steps + self._num_profiled


def narration(event: Event) -> str:
    """What to say about an event, or nothing."""
    if isinstance(event, Warn):
        return f"warning: {event.msg}" + (f" ({event.hint})" if event.hint else "")
    if isinstance(event, Phase) and event.rank == 0:
        return event.phase + (f": {event.note}" if event.note else "")
    if isinstance(event, Depth):
        layers = units.counted(event.num_layers, "layer")
        return f"{layers}: micro-step {units.duration(event.micro_step_s)}"
    return ""


class FoldedProgress:
    """Folds what comes, and has it said."""

    def __init__(self, preset: Preset, virtual: VirtualGpu | None) -> None:
        self._fold = _Fold(preset, virtual)

    def update(self, events: list[Event]) -> None:
        """Show what the events say, and who holds the others up."""
        self._say(self._fold.add(rank_batches(events)))

    def follow(self, feed: Feed) -> None:
        """Show all that a feed has now."""
        for said in self._fold.poll(feed):
            self._say(said)

    def _say(self, said: Said) -> None:
        raise NotImplementedError


class PlainProgress(FoldedProgress):
    """One line per phase and step, for logs and pipes."""

    def __init__(self, preset: Preset, to_stderr: bool, virtual: VirtualGpu | None = None) -> None:
        super().__init__(preset, virtual)
        self._print = diagnostics.note if to_stderr else output.line
        self._narrator = Narrator(preset, diagnostics.note)
        self._shown = 0
        """How many of the marks of NUM_MARKS within each step were passed and shown."""

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def narrate(self, line: str) -> None:
        """Print one line that is no data."""
        diagnostics.note(line)

    def _say(self, said: Said) -> None:
        lines = [*said.suspicions, *filter(None, map(narration, said.notices))]
        for line in lines:
            diagnostics.note(line)
        for total in said.totals:
            self._print("  ".join(self._fold.figures(total)))
        mark = int(self._fold.share_done * NUM_MARKS)
        if mark > self._shown and (inside := self._fold.inside()):
            lines.append(inside)
            diagnostics.note(inside)
        self._shown = max(self._shown, mark)
        if lines or said.totals:
            self._narrator.spoken()
        self._narrator.hear(said.notices)
        if said.totals:
            self._narrator.at(f"after step {said.totals[-1].step + 1}/{self._fold.num_steps}")
