"""Root cause of a run that did not end well: the first rank that failed, not those that followed."""

from __future__ import annotations

from tgsbench.metrics.observe import Observed
from tgsbench.schema.events import Error
from tgsbench.schema.run import Failure, LauncherReport, Outcome, RankExit

_FOLLOWERS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "gloo/transport",
    "NCCL error",
    "DistBackendError",
    "remote process exited",
    "DistNetworkError",
)
"""Errors a rank sees because another one is gone."""


def root_cause(
    observed: Observed, outcome: Outcome | None, launcher: LauncherReport | None, world_size: int
) -> Failure | None:
    """Why the run failed, or None when every rank said it was done."""
    if outcome is not None and outcome.status != "exited":
        return Failure(kind=outcome.status, reason=outcome.reason, hint=outcome.hint)
    killed = _killed(launcher, observed)
    errors = sorted(observed.errors, key=lambda error: error.t)
    own = [error for error in errors if not _is_follower(error)]
    if own:
        return _from_error(own[0], observed)
    if killed is not None:
        return _from_exit(killed, observed)
    if errors:
        return _from_error(errors[0], observed)
    missing = sorted(set(range(world_size)) - {r for r, bye in observed.byes.items() if bye.status == "ok"})
    if missing:
        return _vanished(missing, observed, outcome)
    return None


def _killed(launcher: LauncherReport | None, observed: Observed) -> RankExit | None:
    """The rank whose process died of a signal it was not sent by the launcher."""
    if launcher is None:
        return None
    said_bye = set(observed.byes)
    dead = [e for e in launcher.exits if e.signal and e.signal != "SIGTERM" and e.rank not in said_bye]
    return min(dead, key=lambda e: e.t) if dead else None


def _is_follower(error: Error) -> bool:
    return error.kind == "exception" and any(text in error.msg + error.traceback for text in _FOLLOWERS)


def _from_error(error: Error, observed: Observed) -> Failure:
    return Failure(
        kind=error.kind,
        reason=error.msg,
        rank=error.rank,
        host=_host(error.rank, observed),
        traceback=error.traceback,
        hint=error.hint,
        bytes_requested=error.bytes_requested,
    )


def _from_exit(dead: RankExit, observed: Observed) -> Failure:
    hint = ""
    if dead.signal == "SIGKILL":
        hint = "the kernel's out-of-memory killer or another process killed it: look at `dmesg`"
    return Failure(
        kind="killed",
        reason=f"rank {dead.rank} was killed by {dead.signal}",
        rank=dead.rank,
        host=_host(dead.rank, observed),
        hint=hint,
    )


def _vanished(missing: list[int], observed: Observed, outcome: Outcome | None) -> Failure:
    some = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
    noun = "rank" if len(missing) == 1 else "ranks"
    reason = f"{noun} {some} ended without a word"
    if outcome is None:
        reason = f"the launcher is gone and {reason}"
    elif not observed.hellos:
        reason = outcome.reason or f"no rank came up (launcher exit code {outcome.exit_code})"
    return Failure(kind="vanished", reason=reason, rank=missing[0], hint=outcome.hint if outcome else "")


def _host(rank: int, observed: Observed) -> str:
    hello = observed.hellos.get(rank)
    return hello.host if hello else ""
