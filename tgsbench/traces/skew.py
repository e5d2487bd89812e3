"""Who waits for whom: a collective ends for all at once, so who was in it longest came first.

Durations need no common clock: machines' clocks differ by more than a collective lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from tgsbench.schema.collective_kinds import UNKNOWN
from tgsbench.schema.hotspots import Skew
from tgsbench.traces.hotspots import RankTrace
from tgsbench.traces.row_store import Ints

_MIN_WAIT_SHARE: Final = 0.001
"""Less than a thousandth of the step is no wait to speak of."""


def skews(found: Sequence[RankTrace], step_ms: float) -> tuple[list[Skew], list[str]]:
    """Skew by collective and group, the longest waits first; and what could not be matched, in words."""
    rows, complaints = [], []
    for (kind, group, _), members in _matched(found).items():
        counts = {sum(map(len, durations)) for durations in members.values()}
        if len(members) < 2:
            continue
        if len(counts) > 1:
            complaints.append(f"ranks differ in their calls of {kind} on {group or 'one group'}: no skew")
            continue
        rows.append(_skew(kind, group, members, found))
    rows = [row for row in rows if max(row.wait_ms.values()) > _MIN_WAIT_SHARE * step_ms]
    return sorted(rows, key=lambda row: -max(row.wait_ms.values())), complaints


Key = tuple[str, str, tuple[int, ...]]
Durations = dict[int, list[Ints]]
"""By rank: of the calls in order; a list, since two traces may claim one rank."""


def _matched(found: Sequence[RankTrace]) -> dict[Key, Durations]:
    """Durations of the calls by what and on which ranks."""
    members: dict[Key, Durations] = {}
    for trace in found:
        calls, rank = trace.calls, trace.profile.rank
        for (kind, group), at in calls.by_kind_and_group().items():
            if kind != UNKNOWN.name:
                key = (kind, group, tuple(calls.ranks.get(group, ())))
                members.setdefault(key, {}).setdefault(rank, []).append(calls.end[at] - calls.start[at])
    return members


def _skew(kind: str, group: str, members: Durations, found: Sequence[RankTrace]) -> Skew:
    ranks = sorted(members)
    dur = np.array([np.concatenate(members[rank]) for rank in ranks], np.float64)
    wait = dur - dur.min(axis=0)
    last = dur.argmin(axis=0)
    times_last = np.bincount(last, minlength=len(ranks))
    steps = max(1, max(len(trace.profile.steps) for trace in found))
    return Skew(
        name=kind,
        group=group,
        calls=dur.shape[1],
        wait_ms={rank: float(wait[i].sum()) / 1e6 / steps for i, rank in enumerate(ranks)},
        last_rank=ranks[int(times_last.argmax())],
        last_share=float(times_last.max()) / dur.shape[1],
        mean_skew_us=float(wait.max(axis=0).mean()) / 1e3,
        max_skew_us=float(wait.max()) / 1e3,
    )
