"""The longest sequence that really trains, before what is fastest at that length is looked for."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import preflight, sweep
from tgsbench.launch.max_seq_len import find_longest
from tgsbench.planner.search import MAX_SEQ_LEN
from tgsbench.schema.preset import Preset
from tgsbench.tune.journal import Asked, Journal
from tgsbench.tune.trials import Interrupted


def at_length(asked: Asked, assignment: str) -> Asked:
    """The question at a length, an assignment such as workload.seq_len=32768, in place of its own."""
    kept = [text for text in asked.assignments if not text.startswith("workload.seq_len=")]
    return replace(asked, assignments=[*kept, *([assignment] if assignment else [])])


def begun(root: Path, name: str, asked: Asked) -> Asked | None:
    """The question at the length that a tune of this name has begun to be made at; None without one."""
    before = Journal(root, name).begun()
    same = before is not None and at_length(before, "") == at_length(asked, "")
    return before if same else None


def longest_measured(preset: Preset, root: Path, name: str, budget_s: float, say: sweep.Say) -> int | None:
    """Tokens of the longest sequence that trains, by runs; None where this machine cannot start the preset.

    It begins at the preset's own length and ends with the longest that half of the budget was enough for.
    Runs that lie stored are not made again. Raises Interrupted when a run was ended from outside, TgsError
    when one ends for another reason than memory, or no length trains.
    """
    try:
        preflight.check(preset, preflight.this_machine(), preset.world_size)
    except TgsError:
        return None
    try:
        found = find_longest(preset, root, f"tune-{name}", MAX_SEQ_LEN, say, budget_s / 2)
    except TgsError as error:
        if error.exit_code == ExitCode.CANCELLED:
            raise Interrupted from error
        raise
    if found.seq_len is None:
        raise TgsError(f"{preset.name}: no length trains", exit_code=ExitCode.DOES_NOT_FIT)
    return found.seq_len
