"""One rank: `python -m tgsbench.training RUN_DIR`, started by the agent."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path

from tgsbench.errors import ExitCode
from tgsbench.events.emitter import Emitter
from tgsbench.schema.events import Bye
from tgsbench.system.lifetime import die_with_parent, name_rank
from tgsbench.training import errors, signals
from tgsbench.training.imports import many_imports
from tgsbench.training.rank_log import RankLog


def main(run_dir: Path) -> None:
    """Set the process up before anything heavy is imported, then train."""
    rank = int(os.environ["RANK"])
    name_rank(rank)
    die_with_parent(signal.SIGKILL, int(os.environ.get("TGSBENCH_AGENT_PID", "0")))
    try:
        RankLog(run_dir, rank).take_output()
        emitter = Emitter(run_dir / "events" / f"rank{rank:05d}.jsonl", rank)
    except OSError as error:
        print(f"rank {rank} cannot write to {run_dir}: {error}", file=sys.stderr)
        sys.exit(ExitCode.STORE)
    faulthandler.enable()
    signals.listen(emitter, lambda: errors.dump_flight_recorder(run_dir, rank))
    code = _train(run_dir, rank, emitter)
    if code:
        # A normal exit would run destructors of process groups whose peers are gone; they can wait for ever.
        sys.stderr.flush()
        os._exit(code)


def _train(run_dir: Path, rank: int, emitter: Emitter) -> int:
    try:
        with many_imports():
            from tgsbench.training.rank import run_rank

        run_rank(run_dir, rank, emitter)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the border of the process: all become events
        event = errors.describe(error)
        if event.kind == "oom":
            errors.dump_memory(run_dir, rank)
        emitter.emit(event)
        emitter.emit(Bye(status=event.kind))
        print(event.traceback or event.msg, file=sys.stderr)
        return event.exit_code
    # A rank that cannot say that it is done must not look as if it had nothing to say.
    return ExitCode.OK if emitter.emit(Bye(status="ok")) else ExitCode.STORE


if __name__ == "__main__":
    main(Path(sys.argv[1]))
