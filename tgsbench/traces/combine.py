"""Many ranks' figures in one profile: means over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from tgsbench.metrics.failure import rank_list
from tgsbench.schema.hotspots import PARTS, Collective, HotOp, Profile, RankProfile
from tgsbench.traces.findings import findings
from tgsbench.traces.hotspots import RankTrace
from tgsbench.traces.skew import skews

NUM_TOP = 40
_MOST_COMPLAINTS = 12
T = TypeVar("T")


def combine(found: Sequence[RankTrace], source: str) -> Profile:
    """One profile of ranks' traces (at least one)."""
    ranks = sorted((trace.profile for trace in found), key=lambda profile: profile.rank)
    world_size = max(len(ranks), *(trace.world_size for trace in found))
    step_ms = _mean([rank.step_ms for rank in ranks])
    parts_ms = _means(rank.parts_ms for rank in ranks)
    whole = sum(parts_ms.values())
    waits, unmatched = skews(found, step_ms)
    profile = Profile(
        source=source,
        device="cuda" if any(rank.device == "cuda" for rank in ranks) else "cpu",
        device_name=next((rank.device_name for rank in ranks if rank.device_name), ""),
        world_size=world_size,
        step_ms=step_ms,
        parts_ms=parts_ms,
        shares={part: value / whole if whole else 0.0 for part, value in parts_ms.items()},
        comm_ms=_means(rank.comm_ms for rank in ranks),
        exposed_ms=_means(rank.exposed_ms for rank in ranks),
        hidden_ms=_means(rank.hidden_ms for rank in ranks),
        recompute_ms=_means(rank.recompute_ms for rank in ranks),
        collectives=_collectives(ranks),
        top=_top(ranks),
        skew=waits,
        caveats=caveats(found, world_size) + unmatched,
        ranks=ranks,
    )
    profile.findings = findings(profile)
    return profile


def caveats(found: Sequence[RankTrace], world_size: int) -> list[str]:
    """What to keep in mind when reading the figures."""
    ranks = [trace.profile for trace in found]
    said = []
    if any(rank.device == "cpu" for rank in ranks):
        said.append(
            "CPU: a collective in which the main thread waits is exposed, and on shared cores much of it is "
            "waiting for the peer"
        )
    if len({rank.rank for rank in ranks}) < len(ranks):
        said.append("several traces claim the same rank")
    if len(ranks) < world_size:
        said.append(f"{len(ranks)} of {world_size} ranks were traced")
    if any(not rank.steps for rank in ranks):
        said.append("no step is marked in a trace: its whole length counts as one")
    if any(c.bytes is None for rank in ranks for c in rank.collectives):
        said.append("bytes of some collectives are unknown: record shapes")
    said += _of_ranks(ranks)
    broken = sum(rank.num_broken for rank in ranks)
    if broken:
        said.append(f"{broken:,} events without a usable time or type were left out")
    return said


def _of_ranks(ranks: Sequence[RankProfile]) -> list[str]:
    """What ranks' traces do not hold, each text once, with the ranks where it is not true of all."""
    by_text: dict[str, list[int]] = {}
    for rank in ranks:
        for text in rank.caveats:
            by_text.setdefault(text, []).append(rank.rank)
    said = [text if len(who) == len(ranks) else f"{rank_list(who)}: {text}" for text, who in by_text.items()]
    return said[:_MOST_COMPLAINTS] + (
        ["… and more of other ranks (--json)"] if len(said) > _MOST_COMPLAINTS else []
    )


def _collectives(ranks: Sequence[RankProfile]) -> list[Collective]:
    groups = _by((c for rank in ranks for c in rank.collectives), lambda c: (c.name, c.group))
    merged = [_mean_struct(members, ("group_ranks",)) for members in groups]
    for collective, members in zip(merged, groups, strict=True):
        same = all(member.group_ranks == members[0].group_ranks for member in members)
        collective.group_ranks = members[0].group_ranks if same else []
    return sorted(merged, key=lambda c: -c.total_ms)


def _top(ranks: Sequence[RankProfile]) -> list[HotOp]:
    groups = _by((op for rank in ranks for op in rank.top), lambda op: (op.source, op.name, op.kind))
    merged = [_mean_struct(members, ()) for members in groups]
    return sorted(merged, key=lambda op: -op.total_ms)[:NUM_TOP]


def _by(items: Iterable[T], key: Callable[[T], Any]) -> list[list[T]]:
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _mean_struct(members: Sequence[T], skip: tuple[str, ...]) -> T:
    """Means of the numbers over those that have the entry; None where one does not know."""
    first: Any = members[0]
    changes: dict[str, Any] = {}
    for name in first.__struct_fields__:
        values = [getattr(member, name) for member in members]
        if name in skip or isinstance(values[0], str):
            continue
        numeric = all(isinstance(value, int | float) for value in values)
        changes[name] = _mean(values) if numeric else None
    merged: T = msgspec.structs.replace(first, **changes)
    return merged


def _means(found: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean by key over all ranks, a missing key counting as nothing; in the order of PARTS."""
    rows = list(found)
    keys = sorted({key for row in rows for key in row}, key=PARTS.index)
    return {key: _mean([row.get(key, 0.0) for row in rows]) for key in keys}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
