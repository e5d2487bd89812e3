"""The analysis of a run's traces, made once and kept beside them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from tgsbench.errors import ExitCode, TgsError
from tgsbench.results.results import doubt_by_profile
from tgsbench.schema.hotspots import PROFILE_VERSION, Profile
from tgsbench.store.profiles import profile_dir, stored_profile
from tgsbench.store.run_dir import RunDir
from tgsbench.traces.analyse import analyse
from tgsbench.traces.files import trace_files


def run_profile(
    run: RunDir,
    again: bool = False,
    num_processes: int | None = None,
    on_read: Callable[[int], None] = lambda got: None,
) -> Profile:
    """A run's profile: what is stored, or made from its traces (`again`: in any case) and stored.

    Raises TgsError when the run has no traces or one of them is damaged.
    """
    found = None if again else stored_profile(run)
    if found is not None and found.schema_version == PROFILE_VERSION:
        return found
    found = analyse(trace_files(profile_dir(run.path)), run.run_id, num_processes, on_read)
    folder = run.path / "profile"
    if os.access(folder, os.W_OK) and not folder.is_symlink():  # only reading is no reason to fail
        _store(run, found)
    return found


def _store(run: RunDir, found: Profile) -> None:
    try:
        run.write("profile/hotspots.json", found)
        with contextlib.suppress(TgsError):  # a result that cannot be read is told of where it is asked for
            doubt_by_profile(run, found)
    except OSError as error:
        raise TgsError(
            f"the analysis of {run.run_id} could not be stored: {error.strerror}", exit_code=ExitCode.STORE
        ) from error
