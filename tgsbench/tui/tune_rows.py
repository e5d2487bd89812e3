"""What the tune screen shows, as plain values: lines, rows, the chart of knobs, the front; no widgets."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.text import Text

from tgsbench import units
from tgsbench.report.braille import Canvas
from tgsbench.report.comparison import ratio_text
from tgsbench.report.forecast import cost_text
from tgsbench.tui.widgets.table import Row
from tgsbench.tune.halving import TrialOutcome
from tgsbench.tune.state import TuneState
from tgsbench.tune.text import figure_text, rests_on, runs_text
from tgsbench.tune.verdict import Effect, SettingRow, Verdict

PANES = (
    ("settings", "settings"),
    ("trials", "trials"),
    ("knobs", "knobs"),
    ("front", "front"),
    ("dropped", "left out"),
)
SETTINGS = (
    ("mark", "", 1), ("tgs", "TGS", 7), ("interval", "80 % interval", 16), ("gib", "GiB", 5),
    ("rests", "rests on", 12), ("setting", "setting", 70),
)  # fmt: skip
TRIALS = (
    ("number", "#", 3), ("stage", "stage", 8), ("took", "took", 7), ("tgs", "TGS", 7), ("end", "end", 9),
    ("setting", "setting", 80),
)  # fmt: skip
_SHORT = {
    "engine.name": "", "parallel.sp": "sp", "parallel.ring": "ring", "parallel.shard": "shard",
    "training.micro_batch": "batch", "training.checkpointing": "recompute", "engine.zero_stage": "zero",
    "engine.tiled_mlp": "tiled", "engine.activation_offload": "act-offload", "engine.offload": "offload",
    "engine.sequence_chunks": "chunks", "engine.compile": "compile",
}  # fmt: skip
"""What columns call a knob."""
_EVIDENCE = {"emulated": "emulated", "virtual": "virtual GPU"}
_BAR = 24


def short(change: Sequence[str], common: frozenset[str] = frozenset()) -> str:
    """A setting in a few words: fsdp2 sp=2 batch=4; what all have in `common` is left out."""
    words = []
    for assignment in change:
        key, _, value = assignment.partition("=")
        if assignment in common and key != "engine.name":
            continue
        name = _SHORT.get(key, key.rpartition(".")[2])
        words.append(name if value == "true" else f"{name}={value}" if name else value)
    return " ".join(words)


def common_of(changes: Sequence[Sequence[str]]) -> frozenset[str]:
    """Assignments that all settings share; none of a single one."""
    sets = [frozenset(change) for change in changes]
    return frozenset.intersection(*sets) if len(sets) > 1 else frozenset()


def progress_line(state: TuneState, now_s: float, *, is_alive: bool = True) -> str:
    """How many trials, how much of the budget, what is left; or how it ended."""
    found = state.verdict
    trials = units.counted(found.num_trials, "trial")
    if state.is_over or not is_alive:
        ended = found.ended if state.is_over else "its process is gone"
        return f"{trials} in {units.duration(found.spent_s)}: {ended}"
    spent_s = found.spent_s + (max(0.0, now_s - state.trial_began_s) if state.trial else 0.0)
    left = units.duration(max(0.0, round(state.budget_s - spent_s)))
    of = f"of {found.num_candidates:,} ways, {found.num_planned:,} planned"
    if found.longest is not None and not found.num_planned:
        of = "of the longest sequence"
    return f"{trials} {of}; {left} left of {units.duration(state.budget_s)}"


def trial_line(state: TuneState, now_s: float, *, is_alive: bool = True) -> str:
    """What is being run, and for how long; empty where nothing is."""
    if state.trial is None or state.is_over or not is_alive:
        return ""
    took = units.duration(max(0.0, float(int(now_s - state.trial_began_s))))
    again = f", time {state.trial.repeat + 1}" if state.trial.repeat else ""
    return f"now {took}: {state.trial.rung}{again}: {short(state.trial.key.split())}"


def best_line(found: Verdict, *, is_over: bool) -> str:
    """The best, with its interval, and how far it is ahead."""
    name, at = "best" if is_over else "best so far", _length_text(found)
    if found.best is None:
        return f"{name}: {at or 'nothing was measured'}"
    ahead = f", {found.ratio.value:.3f}x the runner-up" if found.ratio is not None else ""
    return f"{name} {figure_text(found.best)}{ahead}" + (f"; {at}" if at else "")


def _length_text(found: Verdict) -> str:
    """The longest sequence, and why no longer one was tried; empty where none was looked for, or found."""
    if (seen := found.longest) is None or seen.seq_len is None:
        return ""
    how = "trained" if seen.is_measured else "planned to fit"
    return f"longest {units.length(seen.seq_len)} {how}" + (f" ({seen.why})" if seen.why else "")


def setting_rows(found: Verdict) -> list[Row]:
    """The settings, best first, failed ones last."""
    common = common_of([row.change for row in found.rows])
    return [(" ".join(row.change), _setting(row, found, common)) for row in found.rows]


def _setting(row: SettingRow, found: Verdict, common: frozenset[str]) -> tuple[str | Text, ...]:
    interval = f"{units.rate(row.low)} to {units.rate(row.high)}" if row.tgs and not row.failed else ""
    memory = f"{row.memory_gib:.1f}" if row.memory_gib else "-"
    style = (
        "red" if row.failed else "bold" if found.best is not None and row.change == found.best.change else ""
    )
    cells = (
        "*" if row.is_efficient else " ",
        (units.rate(row.tgs) if row.tgs and not row.failed else "-").rjust(7),
        interval.rjust(16),
        memory.rjust(5),
        "failed" if row.failed else _evidence(row),
        short(row.change, common),
    )
    return tuple(Text(cell, style) for cell in cells)


def _evidence(row: SettingRow) -> str:
    if row.rests_on == "measured":
        return runs_text(row)
    planned = "plan" if row.planned_tgs is not None else "count"
    return _EVIDENCE.get(row.rests_on, planned + (", tight" if row.is_tight else ""))


def trial_rows(outcomes: Sequence[TrialOutcome]) -> list[Row]:
    """Every trial, the last one first."""
    numbered = list(enumerate(outcomes, start=1))
    return [(str(number), _trial(number, outcome)) for number, outcome in reversed(numbered)]


def _trial(number: int, outcome: TrialOutcome) -> tuple[str | Text, ...]:
    bad = outcome.status in ("oom", "failed")
    return (
        str(number).rjust(3),
        outcome.rung,
        units.duration(round(outcome.seconds) if outcome.seconds >= 1 else outcome.seconds).rjust(7),
        (units.rate(outcome.tgs) if outcome.tgs else "-").rjust(7),
        Text(outcome.status, "red" if bad else ""),
        short(outcome.key.split()) + (f": {outcome.reason}" if bad else ""),
    )


def detail(row: SettingRow | None, found: Verdict, asked: Sequence[str] = ()) -> Text:
    """The chosen setting whole: its figure and what it rests on, memory, price, command."""
    if row is None:
        return Text("")
    text = Text()
    if row.failed:
        text.append(f"failed: {row.failed}\n", "red")
    else:
        planned = f"; planned {units.rate(row.planned_tgs)}" if row.planned_tgs else ""
        disturbed = f", {row.disturbed} disturbed" if row.disturbed else ""
        text.append(f"{figure_text(row)}{disturbed}{planned}\n" if row.tgs else f"from {rests_on(row)}\n")
    if found.best is not None and row.change == found.best.change and found.ratio is not None:
        text.append(f"over the runner-up: {ratio_text(found.ratio)}\n")
    if row.cost is not None:
        text.append(f"a billion tokens: {cost_text(row.cost)}\n")
    sets = [f"--set {shlex.quote(text)}" for text in (*asked, *row.change)]
    return text.append(" ".join(sets))


def knob_text(effects: Sequence[Effect], width: int) -> Text:
    """A bar for each knob: how much faster the best setting is than with this knob another way."""
    if not effects:
        return Text(
            "nothing yet: a bar needs the best setting beside the same with one knob alone another way"
        )
    text = Text("the best setting over the same with one knob another way\n\n")
    most = max(abs(effect.ratio - 1) for effect in effects) or 1.0
    for effect in effects:
        bar = "█" * max(1, round(min(_BAR, max(6, width - 56)) * abs(effect.ratio - 1) / most))
        text.append(f"{_knob(effect):<38} {effect.ratio:6.3f}x  ")
        text.append(f"{bar}\n", "green" if effect.ratio >= 1 else "red")
        text.append(f"    {effect.low:.3f} to {effect.high:.3f}, 80 %; the other is {_rests(effect)}\n")
    return text


def _knob(effect: Effect) -> str:
    name = _SHORT.get(effect.knob, effect.knob.rpartition(".")[2]) or "engine"
    return f"{name}: {effect.best} against {effect.other}"


def _rests(effect: Effect) -> str:
    words = {"measured": "measured", "emulated": "an emulated rank", "virtual": "a rank on a virtual GPU"}
    return words.get(effect.rests_on, "not measured: planned, or counted, and moved by runs of others")


def front_text(found: Verdict, columns: int, rows: int, *, ascii_only: bool = False) -> Text:
    """TGS over memory of what was tried: the front is what nothing beats in both."""
    tried = [
        r for r in found.rows if r.rests_on in ("measured", "emulated") and not r.failed and r.memory_gib
    ]
    if not tried:
        return Text("nothing yet: the front is made of settings that were measured or emulated")
    on = sorted((row for row in tried if row.is_efficient), key=lambda row: row.memory_gib or 0.0)
    text = Text("TGS over GiB; * no other that was tried is faster, leaner and cheaper\n")
    high = rows - len(on) - 3
    if high >= 4 and len(tried) > 1:
        _scatter(text, tried, columns - 10, high, ascii_only)
    common = common_of([row.change for row in tried])
    for row in on:
        line = f"* {units.rate(row.tgs):>8} TGS  {row.memory_gib:6.1f} GiB  {short(row.change, common)}\n"
        text.append(line, "bold")
    return text


def _scatter(text: Text, tried: Sequence[SettingRow], columns: int, rows: int, ascii_only: bool) -> None:
    """Crosses of dots, those on the front bold."""
    canvas = Canvas(columns, rows, ascii_only=ascii_only)
    gib, tgs = [row.memory_gib or 0.0 for row in tried], [row.tgs for row in tried]
    for row, x, y in sorted(zip(tried, gib, tgs, strict=True), key=lambda point: point[0].is_efficient):
        at = round(_share(x, gib) * (canvas.dots_wide - 3)) + 1
        up = round((1 - _share(y, tgs)) * (canvas.dots_high - 3)) + 1
        role = "bold green" if row.is_efficient else "dim"
        for dx, dy in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
            canvas.dot(at + dx, up + dy, role)
    for index, cells in enumerate(canvas.runs()):
        edge = units.rate(max(tgs)) if index == 0 else units.rate(min(tgs)) if index == rows - 1 else ""
        text.append(f"{edge:>8} │", "dim")
        for run in cells:
            text.append(run.text, run.role)
        text.append("\n")
    left, right = f"{min(gib):.1f} GiB", f"{max(gib):.1f} GiB"
    text.append(f"{'':>10}{left}{right.rjust(max(1, columns - len(left)))}\n", "dim")


def _share(value: float, among: Sequence[float]) -> float:
    low, high = min(among), max(among)
    return (value - low) / (high - low) if high > low else 0.5


def dropped_text(found: Verdict) -> Text:
    """Why ways were left out, how many each."""
    text = Text(f"{found.num_planned:,} ways planned, {found.num_candidates:,} worth a trial; left out:\n\n")
    if not found.dropped:
        text.append("nothing")
    for why, count in found.dropped.items():
        text.append(f"{count:>7,}  ", "bold").append(f"{why}\n", "not bold")
    return text
