"""What the live screen shows, as plain values: texts and charts from a view-model; no widgets here."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from functools import lru_cache

from tgsbench import units
from tgsbench.live.fold import LiveRun, RankState
from tgsbench.live.follow import ReplayFeed
from tgsbench.live.headline import Headline, RunView
from tgsbench.live.history import DownsampledSeries, RankRow
from tgsbench.live.session import Session
from tgsbench.live.stragglers import held_up_text
from tgsbench.metrics.expert_tokens import expert_tokens
from tgsbench.metrics.figures import cost_of
from tgsbench.metrics.ratio import SAME_WITHIN
from tgsbench.presets.catalog import find_gpu
from tgsbench.report.chart import Band, Chart, ChartLine
from tgsbench.report.summary import experts_text
from tgsbench.schema.events import PHASES
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import ReferenceVerdict

STATUS_MARKS = {
    "running": "▶", "replay": "▶", "ok": "✓", "emulated": "✓", "virtual": "✓",
    "cancelled": "■", "preempted": "■",
}  # fmt: skip
"""Mark of a status, so that it reads without colour; all others are failures: ✗."""
VERDICT_MARKS = {
    "better": "▲",
    "worse": "▼",
    "same": "=",
    "not significant": "≈",
    "not comparable": "≠",
    "none": "·",
}


def status_text(status: str) -> str:
    """A status with its mark."""
    return f"{STATUS_MARKS.get(status, '✗')} {status}"


def verdict_text(verdict: ReferenceVerdict | None, forecast: str = "") -> str:
    """The verdict in one line: word, ratio, whose figure, the forecast if there is one, why."""
    forecast = forecast and f" │ {forecast}"
    if verdict is None:
        return f"nothing published for this preset{forecast}"
    system = verdict.source.partition(":")[0]
    published = units.as_published(verdict.tgs) if verdict.tgs is not None else "out of memory"
    ratio = f" {verdict.ratio:.3f}×" if verdict.ratio is not None else ""
    reasons = "; ".join(verdict.reasons)
    if reasons:
        reasons = f" │ {reasons}" if forecast else f": {reasons}"
    mark = VERDICT_MARKS[verdict.verdict]
    return f"{mark} {verdict.verdict}{ratio}, {system} published {published}{forecast}{reasons}"


def live_forecast_text(session: Session, headline: Headline) -> str:
    """The planner's TGS with its error bar, and the measured median over it."""
    forecast = session.manifest.forecast
    tgs = forecast.tgs if forecast else None
    if tgs is None or not tgs.estimate:
        return ""
    text = f"predicted {units.rate(tgs.estimate)} ({units.rate(tgs.low)} to {units.rate(tgs.high)})"
    if headline.tgs.median is None:
        return text
    return f"{text}, measured {headline.tgs.median / tgs.estimate:.2f}×{_usd_text(headline)}"


def _usd_text(headline: Headline) -> str:
    """What a billion tokens cost at the median TGS; empty for a GPU whose hardware file has no price."""
    gpu = find_gpu(headline.device)
    if gpu is None or not gpu.price_usd_per_hour or not headline.tgs.median:
        return ""
    cost = cost_of(headline.tgs.median, gpu.price_usd_per_hour)
    return f", {cost.usd:,.0f} USD a billion tokens"


def run_text(session: Session) -> str:
    """One line about the run: status, name, engine, mesh, and last, as it may be cut off, the device."""
    preset, live = session.view.plan.preset, session.view.live
    where = f"{live.world}×{session.view.device}"
    status = "unreadable" if session.message and session.status == "running" else session.status
    parts = [status_text(status), session.run.run_id, preset.engine.name, mesh_text(preset), where]
    if session.is_simulated:
        parts.insert(1, "SIMULATED, not a measurement")
    if session.is_virtual:
        parts.insert(1, "VIRTUAL GPU, no measurement of speed")
    if preset.rehearsal_of:
        parts.insert(1, f"REHEARSAL of {preset.rehearsal_of}")
    return " │ ".join(parts)


def mesh_text(preset: Preset) -> str:
    """Length and mesh."""
    return f"{units.length(preset.workload.seq_len)} dp {preset.dp}×sp {preset.parallel.sp}"


def phase_text(headline: Headline, width: int, *, is_over: bool) -> str:
    """Phases with the present one marked, step and time left; shorter where there is no room."""
    at = PHASES.index(headline.phase) if headline.phase in PHASES else -1
    if is_over and at == len(PHASES) - 1:
        at += 1
    said = headline.phase_note if is_over else headline.inside or headline.phase_note
    note = f" ({said})" if said else ""
    progress = progress_text(headline, is_over=is_over)
    text = " ".join(_phase_mark(index, at) + name for index, name in enumerate(PHASES)) + note
    for cells in (16, 8, 0):  # a shorter bar before a note that is cut
        if len(text) + len(progress) + 3 > width:
            done = bar(headline.steps_done, headline.total_steps, cells)
            text = f"{done} {headline.phase or 'starting'}{note}".strip()
    if at < 0 and not is_over:
        text = "starting: ranks import torch, some seconds"
    room = max(1, width - len(progress) - 3)
    return (text if len(text) <= room else f"{text[: room - 1]}…").ljust(room + 2) + progress


def _phase_mark(index: int, at: int) -> str:
    return "✓" if index < at else "▶" if index == at else "·"


def progress_text(headline: Headline, *, is_over: bool) -> str:
    """Step count and time left, or the time it took."""
    parts = [f"step {headline.steps_done}/{headline.total_steps}"]
    if headline.eta_s and not is_over:
        parts.append(f"left {units.duration(headline.eta_s)}")
    elif is_over or headline.phase == "teardown":
        parts.append(f"took {units.duration(headline.elapsed_s)}")
    return "  ".join(parts)


def bar(done: float, total: float, width: int) -> str:
    """A progress bar of `width` characters."""
    filled = round(width * min(1.0, done / total)) if total > 0 else 0
    return "█" * filled + "░" * (width - filled)


def big_title(session: Session, headline: Headline) -> str:
    """What the big number is; a run that is no result says so where the number stands."""
    unit = "TGS  tokens/GPU/s"
    if session.status == "invalid":
        return f"{unit}  INVALID"
    if headline.tgs.median is None and headline.newest_tgs is not None:
        return f"{unit}  warm-up"
    if headline.tgs.median is not None and session.is_over and session.status not in _WHOLE:
        return f"{unit}  {session.status}"
    return unit


_WHOLE = ("ok", "emulated", "replay", "running")
"""Statuses of runs that are whole, or may still become so."""


def interval_text(headline: Headline, *, is_over: bool) -> str:
    """What stands below the big number."""
    tgs = headline.tgs
    if tgs.median is None:
        if headline.newest_tgs is None:
            return "no step was finished" if is_over else "no step finished yet"
        return "no measured step: warm-up only" if is_over else "warming up: not counted"
    if tgs.ci95 is None:
        return f"n = {tgs.n}; interval from 6 steps"
    return f"95 % {units.rate(tgs.ci95[0])} to {units.rate(tgs.ci95[1])}, n = {tgs.n}"


def big_number(headline: Headline) -> str:
    """The median TGS; before any measured step the newest one's."""
    value = headline.tgs.median if headline.tgs.median is not None else headline.newest_tgs
    return "-" if value is None else units.rate(value)


def figures(headline: Headline, convention: str, *, is_over: bool) -> dict[str, tuple[str, str]]:
    """Value and note of each small figure by the id of its widget."""
    no_eta = is_over or headline.eta_s is None
    tflops = headline.tflops.get(convention)
    mem = "-" if headline.mem_peak_gib is None else f"{headline.mem_peak_gib:.2f} GiB"
    return {
        "tflops": ("-" if tflops is None else units.rate(tflops), convention),
        "mfu": ("no peak" if headline.mfu is None else units.percent(headline.mfu), ""),
        "step": ("-" if headline.step_s is None else units.duration(headline.step_s), ""),
        "eta": ("-" if no_eta else units.duration(headline.eta_s or 0.0), ""),
        "mem": (mem, "RSS" if headline.mem_is_rss else ""),
        "loss": ("-" if headline.loss is None else f"{headline.loss:.4f}", ""),
    }


def alert_text(session: Session) -> str:
    """The most urgent thing to know, or an empty string."""
    if session.message:
        return f"! {session.message}"
    if session.result is not None and session.result.failure is not None:
        failure = session.result.failure
        rank = f"rank {failure.rank}"
        who = "" if failure.rank is None else f" {rank} ({failure.host}):"
        return f"✗ {session.result.status}:{who} {failure.reason.removeprefix(f'{rank} ')}"
    if session.result is not None and session.result.integrity.problems:
        return f"✗ INVALID, do not use this number: {session.result.integrity.problems[0]}"
    failed = [s for s in session.view.live.ranks if s.error]
    errors = [f"✗ rank {s.rank} ({s.host}): {s.error.kind}: {s.error.msg}" for s in failed if s.error]
    return "  ".join([*errors, *_rank_alerts(session)][:3])


def _rank_alerts(session: Session) -> list[str]:
    """Ranks that are silent, slow or throttled."""
    view, found = session.view, []
    ranks = view.live.ranks
    if session.status == "running":
        for silent in view.silent(time.monotonic())[:2]:
            behind = f", {silent.steps_behind} steps behind" if silent.steps_behind > 0 else ""
            found.append(f"! rank {silent.rank} ({ranks[silent.rank].host}) is silent{behind}")
    if (held_up := view.live.waits.slow) is not None:
        found.append(f"! rank {held_up.rank} ({ranks[held_up.rank].host}) {held_up_text(held_up)}")
    for slow in view.stragglers()[:2]:
        host = ranks[slow.rank].host
        found.append(f"! rank {slow.rank} ({host}) is slow: {slow.ratio:.2f}× the median rank")
    hot = [s for s in ranks if s.gpu is not None and s.gpu.throttled]
    if hot and hot[0].gpu:
        more = f" and {len(hot) - 1} more" if len(hot) > 1 else ""
        found.append(f"! GPU of rank {hot[0].rank}{more} throttled: {hot[0].gpu.throttled}")
    return found


def charts(view: RunView, rank: int) -> dict[str, tuple[Chart, str]]:
    """The four charts and their legends; `rank`'s own line is drawn dashed."""
    live = view.live
    published = [row for row in view.references if row.tgs is not None]
    bands = [Band("reference", row.tgs * (1 - SAME_WITHIN), row.tgs * (1 + SAME_WITHIN))
             for row in published[:1] if row.tgs is not None]  # fmt: skip
    legend = f"⠒ {published[0].system} {units.as_published(published[0].tgs or 0)}" if published else ""
    own = f"-- rank {rank}" if live.world > 1 else ""
    return {
        "chart-tgs": (_chart(live.tgs, units.rate, bands=bands), legend),
        "chart-step": (_chart(live.step_s, units.duration, _own(live, lambda r: r.step_s[rank])), own),
        "chart-loss": (_chart(live.loss, "{:.3f}".format, _own(live, lambda r: r.loss[rank])), own),
        "chart-mem": (_chart(live.mem_peak, _gib, _own(live, lambda r: r.mem_peak[rank])), own),
    }


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / units.GIB:.2f}G"


def _own(live: LiveRun, value: Callable[[RankRow], float]) -> list[ChartLine]:
    rows = live.grid.rows
    if live.world < 2 or not rows:
        return []
    return [
        ChartLine("rank", [float(row.first_step) for row in rows], list(map(value, rows)), stroke="dashed")
    ]


def _chart(
    trend: DownsampledSeries,
    format_y: Callable[[float], str],
    others: list[ChartLine] | None = None,
    bands: list[Band] | None = None,
) -> Chart:
    main = ChartLine("main", list(trend.x), list(trend.y), list(trend.low), list(trend.high))
    return Chart([main, *(others or [])], bands or [], format_y=format_y)


def gpu_rows(live: LiveRun) -> list[tuple[str, tuple[str, ...]]]:
    """One row per rank: where it is, what its GPU does, how far it is."""
    return [(str(state.rank), _gpu_row(state)) for state in live.ranks]


def _gpu_row(state: RankState) -> tuple[str, ...]:
    gpu = state.gpu
    sampled = ("-", "-", "-", "-", "")
    if gpu is not None:
        sampled = (
            f"{bar(gpu.util, 100, 4)}{gpu.util:4.0f}%",
            f"{gpu.power_w:.0f} W",
            f"{gpu.temp_c:.0f} °C",
            f"{gpu.sm_mhz:.0f} MHz",
            f"! {gpu.throttled}" if gpu.throttled else "",
        )
    memory = "-" if state.mem_peak is None else f"{state.mem_peak / units.GIB:.2f}"
    step = "-" if state.step < 0 else str(state.step)
    return (str(state.rank), state.host or "-", state.bye or state.phase or "-", step, memory, *sampled)


def replay_text(session: Session) -> str:
    """Position and speed of a replay."""
    feed = session.feed
    assert isinstance(feed, ReplayFeed)
    mark = "❚❚ paused" if feed.paused else "■ end" if feed.replay.at_end else f"▶ {feed.speed:g}×"
    at, whole = feed.replay.at_s, feed.replay.duration_s
    return f"REPLAY {mark}  {bar(at, whole, 24)} {units.duration(at)} of {units.duration(whole)}"


def _who(live: LiveRun, rank: int) -> str:
    """Whose note it is; below rank 0 are the nodes' supervisors."""
    if rank < 0:
        return f"supervisor of node {-1 - rank}"
    return f"rank {rank} ({live.ranks[rank].host})"


def num_notes(session: Session) -> int:
    """How many things the notes say."""
    return sum(not line.startswith(" ") for line in note_lines(session))


def note_lines(session: Session) -> list[str]:
    """What holds of the run as a whole and of its ranks, then warnings and errors, oldest first.

    Tracebacks and remedies stand below what they belong to.
    """
    live = session.view.live
    experts = experts_text(expert_tokens(live.routing, session.view.plan.preset.training.routing))
    of_experts = [f"experts: {experts}"] if experts else []
    return [*_outcome_lines(session), *_rank_alerts(session), *_event_lines(live), *of_experts]


@lru_cache(maxsize=1)
def wrapped(lines: tuple[str, ...], width: int) -> list[str]:
    """Lines of at most `width` characters; what goes on from one is indented.

    The newest answer is kept: notes change seldom, and wrapping 200 of them takes 17 ms of a repaint.
    """
    if width < 20:
        return list(lines)
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, width, subsequent_indent="      ", break_on_hyphens=False) or [""]
    ]


def _outcome_lines(session: Session) -> list[str]:
    """Why it cannot be read, how it failed, what its integrity checks found; in full."""
    lines = [f"! {session.message}"] if session.message else []
    if session.result is None:
        return lines
    if failure := session.result.failure:
        who = "" if failure.rank is None else f" (rank {failure.rank})"
        lines.append(f"✗ {session.result.status}{who}: {failure.reason}")
        lines += [f"    try: {failure.hint}"] if failure.hint else []
        lines += [f"    {failure.forecast}"] if failure.forecast else []
    return lines + [f"✗ integrity: {problem}" for problem in session.result.integrity.problems]


def _event_lines(live: LiveRun) -> list[str]:
    lines = []
    hidden = live.num_notes - len(live.notes)
    if hidden:
        lines.append(f"({hidden} older notes are in the event files)")
    for note in live.notes:
        lines.append(f"{note.severity}: {_who(live, note.rank)}: {note.title}: {note.msg}")
        if note.hint:
            lines.append(f"    try: {note.hint}")
        lines += [f"    {line}" for line in note.traceback.splitlines()]
    return lines
