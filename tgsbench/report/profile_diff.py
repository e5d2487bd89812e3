"""A comparison of two profiles as lines of text."""

from __future__ import annotations

from tgsbench import units
from tgsbench.schema.hotspots import TITLES, Change, ProfileDiff

_NAME = 60


def diff_lines(found: ProfileDiff) -> list[str]:
    """The step, its parts, exposed communication, collectives and operators by the size of the change."""
    lines = [f"a: {found.a}", f"b: {found.b}", "", *_section("a step", [found.step_ms])]
    lines += _section("parts", found.parts)
    lines += _section("exposed communication", found.exposed)
    lines += _section("collectives, in flight", found.collectives)
    lines += _section("kernels and operators", found.top)
    return lines + [f"note  {caveat}" for caveat in found.caveats]


def _section(title: str, changes: list[Change]) -> list[str]:
    if not changes:
        return []
    width = max(12, *(len(_name(change)) for change in changes))
    head = f"{title:<{width}}{'a':>11}{'b':>11}{'change':>11}{'b/a':>8}"
    return [head, *(_row(change, width) for change in changes), ""]


def _name(change: Change) -> str:
    name = TITLES.get(change.name, change.name)
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def _row(change: Change, width: int) -> str:
    ratio = f"{change.ratio:.3f}" if change.ratio is not None else "-"
    delta = "-" if change.delta is None else ("+" if change.delta > 0 else "-" if change.delta < 0 else "")
    if change.delta is not None:
        delta += units.duration(abs(change.delta) / 1000)
    cells = f"{_ms(change.a):>11}{_ms(change.b):>11}{delta:>11}{ratio:>8}"
    return f"{_name(change):<{width}}{cells}"


def _ms(value: float | None) -> str:
    return "-" if value is None else units.duration(value / 1000)
