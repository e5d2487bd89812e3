"""Root cause of a run that did not end well: the first rank that failed, not those that followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tgsbench.metrics import progress, stacks
from tgsbench.metrics.observe import RunTotals
from tgsbench.schema.events import Error
from tgsbench.schema.run import Failure, LauncherReport, Outcome, RankExit
from tgsbench.system.lifetime import signal_name

_FOLLOWERS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "gloo/transport",
    "NCCL error",
    "DistBackendError",
    "remote process exited",
    "DistNetworkError",
    "DistStoreError",
)
"""Errors a rank sees because another one is gone."""


def root_cause(
    observed: RunTotals,
    outcome: Outcome | None,
    launcher: LauncherReport | None,
    started: int | Sequence[int],
    stack_texts: Mapping[int, str] | None = None,
) -> Failure | None:
    """Why the run failed, or None when every rank that was started (how many, or which) said it was done."""
    ranks = range(started) if isinstance(started, int) else started
    missing = sorted(set(ranks) - {r for r, bye in observed.byes.items() if bye.status == "ok"})
    if not missing:
        return None
    if outcome is not None and outcome.disk and all(is_follower(error) for error in observed.errors):
        return Failure(kind="disk", reason=outcome.disk, hint=_ROOM_HINT)
    if outcome is not None and outcome.status == "stalled":
        return _stalled(outcome, observed, stack_texts or {}, ranks)
    if outcome is not None and outcome.status != "exited":
        return Failure(kind=outcome.status, reason=outcome.reason, hint=outcome.hint)
    return _from_ranks(observed, outcome, launcher) or _unspoken(missing, observed, outcome, launcher)


def in_order(errors: Sequence[Error], observed: RunTotals) -> list[Error]:
    """Errors by time; hosts' monotonic clocks are lined up by their hellos."""
    offsets = observed.seconds_between_clocks()
    return sorted(errors, key=lambda error: error.t + offsets.get(_host(error.rank, observed), 0.0))


def _from_ranks(
    observed: RunTotals, outcome: Outcome | None, launcher: LauncherReport | None
) -> Failure | None:
    """What a rank said of itself, else the first rank that was killed, else the first that lost its peers."""
    errors = in_order(observed.errors, observed)
    own = [error for error in errors if not is_follower(error)]
    if own:
        return _from_error(own[0], observed)
    killed = _killed(launcher, observed)
    if killed is not None:
        return _from_exit(killed, observed, outcome)
    if launcher is not None and launcher.problem:
        return Failure(kind="rendezvous", reason=launcher.problem, hint=_REACH_HINT)
    if outcome is not None and (left := [rank for rank in outcome.left if rank not in observed.byes]):
        return _departed(left[0], observed)
    if not errors or _left_before(errors[0], observed):
        return None
    return _from_error(errors[0], observed)


def _left_before(error: Error, observed: RunTotals) -> bool:
    """Had a rank been asked to end before this one lost its peers?"""
    return any(bye.status == "cancelled" and bye.t < error.t for bye in observed.byes.values())


_ROOM_HINT = "choose a folder with room: --output DIR or TGSBENCH_RUNS=DIR; what was recorded is kept"
_REACH_HINT = "can every node reach the first one's address and port? `tgsbench doctor` shows this node's"


def is_follower(error: Error) -> bool:
    """Did this rank fail only because another one is gone?"""
    return error.kind == "exception" and any(text in error.msg + error.traceback for text in _FOLLOWERS)


def _killed(launcher: LauncherReport | None, observed: RunTotals) -> RankExit | None:
    """The first rank that ended without a bye, by itself or by a signal that was not the launcher's."""
    if launcher is None:
        return None
    dead = [e for e in launcher.exits if e.signal != "SIGTERM" and e.rank not in observed.byes]
    return min(dead, key=lambda e: e.t) if dead else None


def _from_error(error: Error, observed: RunTotals) -> Failure:
    return Failure(
        kind=error.kind,
        reason=error.msg,
        rank=error.rank,
        host=_host(error.rank, observed),
        traceback=error.traceback,
        hint=error.hint,
        bytes_requested=error.bytes_requested,
        bytes_in_use=error.bytes_in_use,
    )


def _from_exit(dead: RankExit, observed: RunTotals, outcome: Outcome | None) -> Failure:
    host = _host(dead.rank, observed)
    if dead.signal == "SIGKILL" and outcome is not None and outcome.oom_kills:
        return Failure(
            kind="host_oom",
            reason=f"the kernel's out-of-memory killer ended rank {dead.rank}: host memory was exhausted",
            rank=dead.rank,
            host=host,
            bytes_in_use=max(observed.mem_peak_by_rank.values(), default=0) if _on_cpu(observed) else 0,
        )
    hint = "the rank's log may hold its last words"
    vanished = f"ended with exit code {dead.exit_code} and without a word"
    if dead.signal == "SIGKILL":
        hint = "another process or the scheduler killed it (the kernel's out-of-memory killer did not)"
    return Failure(
        kind="killed",
        reason=f"rank {dead.rank} " + (f"was killed by {dead.signal}" if dead.signal else vanished),
        rank=dead.rank,
        host=host,
        hint=hint,
    )


def _departed(rank: int, observed: RunTotals) -> Failure:
    return Failure(
        kind="killed",
        reason=f"rank {rank} ended with exit code 0 before its work was done; the others waited for it",
        rank=rank,
        host=_host(rank, observed),
        hint="something in it called exit; the rank's log may hold its last words",
    )


def _stalled(
    outcome: Outcome, observed: RunTotals, stack_texts: Mapping[int, str], ranks: Sequence[int]
) -> Failure:
    frames = {rank: stacks.main_thread(text) for rank, text in stack_texts.items()}
    odd = stacks.elsewhere(frames)
    absent = sorted(set(ranks) - set(observed.hellos))
    failure = Failure(kind="stalled", reason=outcome.reason, hint=outcome.hint)
    if outcome.cause:
        failure.reason += f"; {outcome.cause}"
    if absent and observed.hellos:
        failure.reason += f"; {rank_list(absent)} never came up"
    elif odd:
        first = odd[0]
        failure.rank, failure.host = first, _host(first, observed)
        failure.reason += f"; {rank_list(odd)} not where the others wait: in {frames[first][0]}"
    if words := waiting_for(observed, odd):
        failure.reason += f"; {words}"
    shown = odd[:1] or sorted(frames)[:1]
    others = [rank for rank in sorted(frames) if rank not in odd][:1] if odd else []
    failure.traceback = "\n".join(
        f"rank {rank} ({_host(rank, observed)}), innermost call first:\n{stacks.describe(frames[rank])}"
        for rank in (*shown, *others)
    )
    return failure


def waiting_for(observed: RunTotals, suspected: Sequence[int] = ()) -> str:
    """Where the ranks were that the others waited for, by their last heartbeats, and where those waited."""
    beats = observed.beats
    late = progress.behind(beats, suspected)
    if not late or not (words := progress.place(beats[late[0]])):
        return ""
    step = f"step {beats[late[0]].step + 1}"
    others = [rank for rank in sorted(beats) if rank not in late]
    if not others:
        who = "all ranks" if len(late) > 1 else rank_list(late)
        return f"{who} in {step}, {words}"
    where = progress.place(beats[others[0]])
    wait = "the others wait there" if where == words else f"the others wait in {where}"
    return f"{rank_list(late)} in {step}, {words}; {wait}"


def _unspoken(
    missing: list[int], observed: RunTotals, outcome: Outcome | None, launcher: LauncherReport | None
) -> Failure:
    """No rank said why: the launcher died, the ranks were told to end, or they vanished."""
    hint = outcome.hint if outcome else ""
    told = [rank for rank in missing if rank in observed.byes]
    if outcome is None:
        reason = "the launcher was killed; its ranks ended with it" if observed.hellos else "it never started"
        return Failure(kind="vanished", reason=reason, hint=hint)
    if outcome.reason:
        return Failure(kind="vanished", reason=outcome.reason, hint=hint)
    if outcome.exit_code < 0:
        reason = f"the agent that started the ranks was killed by {signal_name(-outcome.exit_code)}"
        return Failure(kind="killed", reason=reason, hint=hint)
    if not observed.hellos:
        reason = f"no rank came up (launcher exit code {outcome.exit_code})"
        return Failure(kind="vanished", reason=reason, hint=hint or "log/launcher.log says why")
    if len(told) == len(missing):
        told_by = launcher.signal if launcher and launcher.signal else "SIGTERM"
        reason = f"{told_by}: the ranks were asked to end; steps so far are kept"
        return Failure(kind="preempted", reason=reason)
    lost = sorted(set(missing) - set(told))
    hosts = sorted({host for rank in lost if (host := _host(rank, observed))})
    where = f" on {', '.join(hosts)}" if hosts else ""
    reason = f"{rank_list(lost)}{where} ended without a word"
    return Failure(kind="vanished", reason=reason, rank=lost[0], host=hosts[0] if hosts else "", hint=hint)


def rank_list(ranks: Sequence[int]) -> str:
    """Ranks for people: "ranks 2, 3"."""
    some = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {some}"


def _on_cpu(observed: RunTotals) -> bool:
    return all(hello.device == "cpu" for hello in observed.hellos.values())


def _host(rank: int, observed: RunTotals) -> str:
    hello = observed.hellos.get(rank)
    return hello.host if hello else ""
