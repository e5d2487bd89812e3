"""Has a run's traces analysed by a process of its own: reading them would hold up the screen."""

from __future__ import annotations

import subprocess

from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema.hotspots import Profile
from tgsbench.store.profiles import has_traces, stored_profile
from tgsbench.store.run_dir import RunDir
from tgsbench.system.child import child_environment, module_argv

_TIMEOUT_S = 600.0


def analyse_in_background(run: RunDir) -> Profile | None:
    """The analysis made just now, None for a run without traces. Raises TgsError when it cannot be made."""
    if not has_traces(run):
        return None
    argv = module_argv("tgsbench", "profile", str(run.path), "--json")
    try:
        done = subprocess.run(
            argv, env=child_environment(), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TgsError(f"the traces could not be analysed: {error}", exit_code=ExitCode.BAD_INPUT) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise TgsError(
            lines[0].removeprefix("error: "),
            hint=" ".join(lines[1:]).strip().removeprefix("try: "),
            exit_code=ExitCode.BAD_INPUT,
        )
    return stored_profile(run)
