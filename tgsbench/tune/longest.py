"""The longest sequence that really trains, before what is fastest at that length is looked for."""

from __future__ import annotations

from pathlib import Path

from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import preflight, sweep
from tgsbench.launch.max_seq_len import find_longest
from tgsbench.planner.search import MAX_SEQ_LEN
from tgsbench.schema.preset import Preset
from tgsbench.tune.trials import Interrupted


def longest_measured(preset: Preset, root: Path, name: str, say: sweep.Say) -> int | None:
    """Tokens of the longest sequence that trains, by runs; None where this machine cannot start the preset.

    Runs that lie stored are not made again. Raises Interrupted when a run was ended from outside, TgsError
    when one ends for another reason than memory, or no length trains.
    """
    try:
        preflight.check(preset, preflight.this_machine(), preset.world_size)
    except TgsError:
        return None
    try:
        found = find_longest(preset, root, f"tune-{name}", MAX_SEQ_LEN, say)
    except TgsError as error:
        if error.exit_code == ExitCode.CANCELLED:
            raise Interrupted from error
        raise
    if found.seq_len is None:
        raise TgsError(f"{preset.name}: no length trains", exit_code=ExitCode.DOES_NOT_FIT)
    return found.seq_len
