"""What the profile screen shows, as plain values: shares, kernels, collectives, findings; no widgets here."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tgsbench import units
from tgsbench.schema.hotspots import COLLECTIVES, PARTS, TITLES, Profile, RankProfile, Skew
from tgsbench.tui.widgets.table import Row

BAR = 14
NAME_WIDTH = 28
"""Of the column that names kernels."""

Scope = Profile | RankProfile
"""All ranks together, or one of them: both carry the same fields."""


def scope_of(profile: Profile, rank: int | None) -> Scope:
    """The whole, or one rank where its trace was read."""
    return next((found for found in profile.ranks if found.rank == rank), profile)


def headline(profile: Profile, rank: int | None) -> str:
    """One line: what it is of, the step, which ranks."""
    which = "all ranks" if rank is None else f"rank {rank}"
    ranks = f"{len(profile.ranks)} of {profile.world_size} ranks traced"
    step = units.duration(scope_of(profile, rank).step_ms / 1000)
    return f"{profile.source} │ {which} │ step {step} │ {ranks} │ {profile.device_name or profile.device}"


def share_rows(scope: Scope) -> list[Row]:
    """Parts of the step, largest first; communication with its hidden part."""
    present = [part for part in PARTS if scope.shares.get(part, 0.0) > 0 or scope.comm_ms.get(part, 0.0) > 0]
    present.sort(key=lambda part: -scope.shares.get(part, 0.0))
    return [(part, _share_cells(scope, part)) for part in present]


def _share_cells(scope: Scope, part: str) -> tuple[str | Text, ...]:
    share = scope.shares.get(part, 0.0)
    is_comm = part in COLLECTIVES
    exposed, hidden = scope.exposed_ms.get(part, 0.0), scope.hidden_ms.get(part, 0.0)
    hidden_share = hidden / scope.step_ms if scope.step_ms else 0.0
    return (
        TITLES[part],
        Text(share_bar(share, hidden_share if is_comm else 0.0)),
        units.percent(share, 1).rjust(6),
        _ms(scope.parts_ms.get(part, 0.0)).rjust(8),
        (_ms(exposed) if is_comm else "").rjust(8),
        (_ms(hidden) if is_comm else "").rjust(8),
    )


def share_bar(share: float, hidden_share: float = 0.0) -> str:
    """Solid: time of the step; shaded: communication that hides behind work and costs no time."""
    solid = min(BAR, round(BAR * share)) or (1 if share > 0 else 0)
    shaded = min(BAR - solid, round(BAR * hidden_share))
    return ("█" * solid + "░" * shaded).ljust(BAR)


def kernel_rows(scope: Scope) -> list[Row]:
    """The most expensive kernels and operators; names that are too long keep what tells them apart.

    An operator has a row for each part of the step that it works for.
    """
    names = told_apart([op.name for op in scope.top], NAME_WIDTH)
    return [
        (
            f"{index}:{op.name}",
            (
                Text(names[index]),
                TITLES.get(op.kind, op.kind),
                _ms(op.total_ms).rjust(8),
                units.percent(op.share, 1).rjust(6),
                _count(op.calls).rjust(7),
                _ms(op.mean_us / 1000).rjust(8),
                _ms(op.p95_us / 1000).rjust(8),
                _achieved(op.tflops, op.peak_tflops),
            ),
        )
        for index, op in enumerate(scope.top)
    ]


def told_apart(names: Sequence[str], width: int) -> list[str]:
    """Each name in `width` characters: its beginning and end, or its beginning and where it differs.

    Kernels of one library share both ends: only the tile sizes in their middle tell them apart.
    """
    ends = [_cut(name, width, len(name)) for name in names]
    groups = [{other for other, cut in zip(names, ends, strict=True) if cut == end} for end in ends]
    return [
        end if len(group) == 1 else _cut_apart(name, group - {name}, width)
        for name, end, group in zip(names, ends, groups, strict=True)
    ]


def _cut_apart(name: str, twins: set[str], width: int) -> str:
    """The name cut around the first place that tells it from all of its twins, or from one at least."""
    places = sorted(_differ_at(name, twin) + (width - _HEAD) // 2 for twin in twins)
    cuts = [(_cut(name, width, place), [_cut(twin, width, place) for twin in twins]) for place in places]
    return next((mine for mine, others in cuts if mine not in others), cuts[0][0])


def _differ_at(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


_HEAD = 9
"""Characters of a cut name's beginning that stay, with the ellipsis."""


def _cut(name: str, width: int, end: int) -> str:
    """The name's beginning and what ends at `end`, with an ellipsis for what is left out."""
    if len(name) <= width:
        return name
    tail = end < len(name)
    kept = width - _HEAD - tail
    start = max(_HEAD, min(end, len(name)) - kept)
    return f"{name[: _HEAD - 1]}…{name[start : start + kept]}{'…' * tail}"


def kernel_line(scope: Scope, key: str) -> str:
    """A row of the kernel table in words: the whole name, what it is, what it reaches; empty without one."""
    index = key.partition(":")[0]
    if not index.isdecimal() or int(index) >= len(scope.top):
        return ""
    op = scope.top[int(index)]
    reached = f", {_achieved(op.tflops, op.peak_tflops)} TFLOPs" if op.tflops is not None else ""
    return f"{op.name}  ({TITLES.get(op.kind, op.kind)}{reached})"


def collective_rows(scope: Scope) -> list[Row]:
    """Each kind of collective by process group, against the link's peak where it is known."""
    return [
        (
            f"{index}",
            (
                TITLES.get(c.name, c.name),
                Text(c.group or "-"),
                _count(c.calls).rjust(7),
                ("-" if c.bytes is None else units.size(c.bytes)).rjust(10),
                _ms(c.exposed_ms).rjust(8),
                _ms(c.hidden_ms).rjust(8),
                _achieved(c.bus_gb_per_s, c.peak_gb_per_s),
            ),
        )
        for index, c in enumerate(scope.collectives)
    ]


def findings(profile: Profile) -> RenderableType:
    """Findings with what to try, who waits for whom, caveats; long ones are wrapped."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column()
    for finding in profile.findings:
        grid.add_row(Text(units.percent(finding.share, 1), "bold"), Text(finding.text))
        if finding.hint:
            grid.add_row("try", Text(finding.hint))
    for skew in profile.skew:
        grid.add_row("skew", Text(_skew_text(skew)))
    for caveat in profile.caveats:
        grid.add_row("note", Text(caveat))
    return grid if grid.row_count else Text("nothing stands out")


def _skew_text(skew: Skew) -> str:
    name, group = TITLES.get(skew.name, skew.name), skew.group or "-"
    share, late = units.percent(skew.last_share), units.duration(skew.mean_skew_us / 1e6)
    return f"{name} on {group}: rank {skew.last_rank} last in {share} of {skew.calls} calls, by {late}"


def _ms(value: float) -> str:
    return units.duration(value / 1000) if value else "-"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _achieved(value: float | None, peak: float | None) -> str:
    if value is None:
        return "-"
    return units.rate(value) + (f" of {peak:g}" if peak else "")
