"""Which runs can go; pure over the list of runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tgsbench.errors import TgsError
from tgsbench.results.index import Summary

_AGE = re.compile(r"^(\d{1,6}(?:\.\d+)?)\s*([smhdw])$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_age(text: str) -> float:
    """Seconds of "30d", "12h"; TgsError for anything else."""
    match = _AGE.match(text.strip())
    if match is None:
        raise TgsError(f"{text!r} is no age", hint="30d, 12h, 2w")
    return float(match[1]) * _SECONDS[match[2]]


def choose(
    found: Sequence[Summary],
    *,
    keep: int | None,
    older_than_s: float | None,
    statuses: Sequence[str],
    tagged: bool,
    now_unix: float,
) -> list[Summary]:
    """Runs that every condition given lets go; running ones never, tagged ones only with `tagged`.

    `keep` spares the newest so many. Without any condition nothing is chosen.
    """
    if keep is None and older_than_s is None and not statuses:
        return []
    newest_first = sorted(found, key=lambda run: run.created_unix, reverse=True)
    chosen = newest_first[keep or 0 :]
    return [
        run
        for run in chosen
        if run.status != "running"
        and (tagged or not run.tags)
        and (not statuses or run.status in statuses)
        and (older_than_s is None or now_unix - run.created_unix > older_than_s)
    ]
