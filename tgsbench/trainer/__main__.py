"""One rank: `python -m tgsbench.trainer RUN_DIR`, started by the elastic agent."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path

from tgsbench.system.lifetime import die_with_parent


def main() -> None:
    """Set the process up before anything heavy is imported, then train."""
    run_dir, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    die_with_parent(signal.SIGKILL)
    _redirect_output(run_dir / "log" / f"rank{rank:05d}.log")
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    from tgsbench.trainer.rank import run_rank

    sys.exit(run_rank(run_dir, rank))


def _redirect_output(path: Path) -> None:
    """Send stdout and stderr, C++ libraries' included, to the rank's own log: no pipe can fill."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


if __name__ == "__main__":
    main()
