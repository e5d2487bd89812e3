"""What changed from one profile to another."""

from __future__ import annotations

from collections.abc import Iterable

from tgsbench.schema.hotspots import PARTS, TITLES, Change, HotOp, Profile, ProfileDiff

_NUM_TOP = 20


def diff(a: Profile, b: Profile) -> ProfileDiff:
    """Milliseconds per step of `b` against `a`: parts, exposed communication, collectives, operators."""
    parts = [part for part in PARTS if a.parts_ms.get(part) or b.parts_ms.get(part)]
    kinds = [part for part in PARTS if part in a.exposed_ms or part in b.exposed_ms]
    return ProfileDiff(
        a=a.source,
        b=b.source,
        step_ms=_change("step", a.step_ms, b.step_ms),
        parts=_largest(_change(part, a.parts_ms.get(part, 0.0), b.parts_ms.get(part, 0.0)) for part in parts),
        exposed=[_change(kind, a.exposed_ms.get(kind), b.exposed_ms.get(kind)) for kind in kinds],
        collectives=_matched(_collectives(a), _collectives(b)),
        top=_matched(_ops(a.top), _ops(b.top))[:_NUM_TOP],
        caveats=_caveats(a, b),
    )


def _collectives(profile: Profile) -> dict[str, float]:
    return {f"{TITLES[c.name]} on {c.group or '-'}": c.total_ms for c in profile.collectives}


def _ops(top: list[HotOp]) -> dict[str, float]:
    found: dict[str, float] = {}
    for op in top:
        name = f"{op.source} {op.name}"
        found[name] = found.get(name, 0.0) + op.total_ms
    return found


def _matched(a: dict[str, float], b: dict[str, float]) -> list[Change]:
    return _largest(_change(name, a.get(name), b.get(name)) for name in {**a, **b})


def _largest(changes: Iterable[Change]) -> list[Change]:
    return sorted(changes, key=lambda c: -abs((c.b or 0.0) - (c.a or 0.0)))


def _change(name: str, a: float | None, b: float | None) -> Change:
    known = a is not None and b is not None
    return Change(
        name=name,
        a=a,
        b=b,
        delta=b - a if a is not None and b is not None else None,
        ratio=b / a if known and a and b is not None else None,
    )


def _caveats(a: Profile, b: Profile) -> list[str]:
    said = []
    if (a.device, a.device_name) != (b.device, b.device_name):
        first, second = a.device_name or a.device, b.device_name or b.device
        said.append(f"different devices: {first}, {second}")
    if a.world_size != b.world_size:
        said.append(f"different numbers of ranks: {a.world_size}, {b.world_size}")
    return said
