"""A tune's verdict in lines for people."""

from __future__ import annotations

from tgsbench import units
from tgsbench.report.comparison import ratio_text
from tgsbench.report.forecast import cost_text
from tgsbench.tune.candidates import LongestSeen
from tgsbench.tune.verdict import Effect, SettingRow, Verdict

_BAR = 20
_SHOWN = 12
_USD = "USD a billion"
"""Tokens; the column is there where a price is known."""
_USD_WIDTH = len(_USD)


def verdict_lines(found: Verdict) -> list[str]:
    """What was tried, the settings with what each rests on, the best over the runner-up, each knob."""
    lines = [
        f"{found.num_planned:,} ways planned, {found.num_candidates:,} worth a trial, "
        f"{units.counted(found.num_trials, 'trial')} in {units.duration(found.spent_s)}; {found.ended}",
        *(f"  left out {count:>6,}  {why}" for why, count in found.dropped.items()),
        *([longest_text(found.longest)] if found.longest else []),
    ]
    if not found.rows:
        return lines
    shown = [row for row in found.rows if not row.failed][:_SHOWN]
    priced = any(_usd(row) for row in shown)
    usd = f"{_USD:>{_USD_WIDTH}}  " if priced else ""
    lines += ["", f"  {'TGS':>9} {'80 % interval':>19}  {'planned':>8} {'memory':>10}  {usd}rests on"]
    lines += [line for row in shown for line in _row_lines(row, priced)]
    failed = [row for row in found.rows if row.failed][:_SHOWN]
    lines += [f"  failed: {' '.join(row.change)}: {_first_sentence(row.failed)}" for row in failed]
    lines += (
        ["  * no other setting that was tried is faster, leaner and cheaper by the hour"]
        if any(r.is_efficient for r in shown)
        else []
    )
    if found.best is None and found.longest is not None and found.longest.is_measured:
        return [*lines, "", "no setting was measured at that length"]
    if found.best is None and found.num_trials:
        return [*lines, "", "no setting that was tried held"]
    if found.best is None:
        return [*lines, "", f"nothing was tried: the first row is {_first_of(found)}"]
    if found.ratio is not None:
        lines += ["", f"best over runner-up: {ratio_text(found.ratio)}"]
    if found.best.cost is not None:
        lines.append(f"a billion tokens: {cost_text(found.best.cost)}")
    return lines + _effect_lines(found.effects)


def longest_text(seen: LongestSeen) -> str:
    """The longest sequence, what that rests on, and why no longer one was tried."""
    way = " ".join(f"--set {change}" for change in seen.change)
    if seen.seq_len is None:
        return f"longest sequence: none has trained with {way}"
    how = "trained" if seen.is_measured else "planned to fit"
    why = f"; {seen.why}" if seen.why else ""
    return f"longest sequence: {seen.seq_len:,} tokens, {how} with {way}{why}"


def _first_sentence(reason: str) -> str:
    """Of torch's five about memory; the stored run has them all."""
    return reason.partition(". ")[0]


def _usd(row: SettingRow) -> float | None:
    """USD of a billion tokens, where a price is known."""
    return row.cost.usd if row.cost else None


def _row_lines(row: SettingRow, priced: bool) -> list[str]:
    interval = f"{units.rate(row.low)} to {units.rate(row.high)}" if row.tgs else ""
    tgs = units.rate(row.tgs) if row.tgs else "-"
    planned = units.rate(row.planned_tgs) if row.planned_tgs else "-"
    memory = f"{row.memory_gib:.1f} GiB" if row.memory_gib else "-"
    rests = rests_on(row)
    rests += f", {row.disturbed} disturbed" if row.disturbed else ""
    if priced:
        usd = _usd(row)
        rests = f"{f'{usd:,.0f}' if usd else '-':>{_USD_WIDTH}}  {rests}"
    mark = "*" if row.is_efficient else " "
    sets = " ".join(f"--set {change}" for change in row.change)
    return [f"{mark} {tgs:>9} {interval:>19}  {planned:>8} {memory:>10}  {rests}", f"      {sets}"]


def figure_text(row: SettingRow) -> str:
    """A setting's TGS, its interval, and what they rest on."""
    interval = f"{units.rate(row.low)} to {units.rate(row.high)}, 80 %"
    speed = f"{units.rate(row.tgs)} TGS ({interval})" if row.tgs else "no TGS"
    return f"{speed} from {rests_on(row)}"


def _first_of(found: Verdict) -> str:
    planned = not found.rows or found.rows[0].planned_tgs
    return "the planner's choice" if planned else "the way with least counted work (FLOPs, bytes, launches)"


def rests_on(row: SettingRow) -> str:
    """What a row's figure rests on, in words."""
    if row.rests_on == "planned":
        counted = "counted work" if row.planned_tgs is None else "the plan"
        counted += " and runs of others" if row.planned_tgs is None and row.tgs else ""
        return counted + (", tight" if row.is_tight else "")
    if row.rests_on == "measured":
        return runs_text(row)
    host = f", host {units.duration(row.host_s)} a step" if row.host_s is not None else ""
    return f"a rank {'emulated' if row.rests_on == 'emulated' else 'on a virtual GPU'}{host}"


def runs_text(row: SettingRow) -> str:
    """How many runs of which kind a measured figure rests on."""
    return units.counted(row.runs, f"{row.rung} run" if row.rung in ("short", "long") else "run")


def _effect_lines(effects: list[Effect]) -> list[str]:
    """A bar for each knob: how much faster the best setting is than with this knob another way."""
    if not effects:
        return []
    most = max(abs(effect.ratio - 1) for effect in effects) or 1.0
    lines = ["", "what each knob gives: the best setting over the same with one knob another way"]
    for effect in effects:
        bar = "#" * max(1, round(_BAR * abs(effect.ratio - 1) / most))
        lines.append(
            f"  {effect.knob + '=' + effect.best:<34} against {effect.other:<10} {effect.ratio:6.3f}x "
            f"({effect.low:.3f} to {effect.high:.3f}, {effect.rests_on})  {bar}"
        )
    return lines
