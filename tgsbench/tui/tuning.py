"""Tunes started from the terminal UI: `tgsbench tune` in a session of its own, which outlives the UI."""

from __future__ import annotations

import time
from pathlib import Path

from tgsbench.store.run_dir import unwritable
from tgsbench.system.child import child_environment, module_argv
from tgsbench.system.session import start_in_session
from tgsbench.tune.asking import TuneWords

_MAX_LOG = 1 << 16


class TuneProcess:
    """A tune's process; what it says goes into RUNS/tune/NAME.log."""

    def __init__(self, words: TuneWords, root: Path) -> None:
        """Raises TgsError when the folder of runs cannot be written."""
        self.name = words.tune_name()
        self._log = root / "tune" / f"{self.name}.log"
        self.began_s = time.time()
        """In seconds of the clock on the wall: a state that was written before is an earlier tune's."""
        argv = module_argv("tgsbench", "tune", *words.options(), f"--output={root.resolve()}")
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("wb") as log:
                self._process = start_in_session(argv, child_environment(), log)
        except OSError as error:
            raise unwritable(self._log, error) from error

    @property
    def is_alive(self) -> bool:
        """Does it go on? Asking also reaps it, else it would look alive as a zombie."""
        return self._process.poll() is None

    def said(self) -> str:
        """Its error and remedy, as it told them; else its last line."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, self._log.stat().st_size - _MAX_LOG))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        at = next((i for i, line in enumerate(lines) if line.startswith("error: ")), len(lines) - 1)
        return "\n".join(lines[max(0, at) :])
