"""One rank of XTuner's own training in turns: `-m benchmarks.xtuner_rank ACCUMULATION SCRIPT ARGUMENTS…`.

Runs in XTuner's environment. mmengine's training loop is left as it is; only each optimizer step (a window of
ACCUMULATION iterations) waits until it is asked for. The first batch of a turn is read before the clock
starts, which is to XTuner's advantage.
"""

from __future__ import annotations

import runpy
import sys
import time
from typing import Any

from mmengine.runner import IterBasedTrainLoop

from benchmarks.turns import peak_mib, reply, words


class Turns:
    """Lets as many iterations through as the parent asks for."""

    def __init__(self, accumulation: int) -> None:
        self._accumulation = accumulation
        self._words = words()
        self._left = -1
        self._begin_s = self._begin_cpu_s = 0.0

    def before(self) -> bool:
        """Wait for the next turn if none is running; False when the parent wants no more."""
        if self._left > 0:
            return True
        if self._left < 0:
            reply(seconds=0.0)
        word = next(self._words, None)
        if word is None:
            return False
        self._left = int(word) * self._accumulation
        self._begin_s, self._begin_cpu_s = time.perf_counter(), time.process_time()
        return True

    def after(self) -> None:
        """Count an iteration; the last of a turn tells the parent what it took."""
        self._left -= 1
        if self._left == 0:
            cpu_s = time.process_time() - self._begin_cpu_s
            seconds = time.perf_counter() - self._begin_s
            reply(seconds=seconds, cpu_seconds=cpu_s, peak_mib=peak_mib())


def main() -> None:
    """Put the turns around the loop's iteration and run XTuner's script."""
    turns, run_iter = Turns(int(sys.argv[1])), IterBasedTrainLoop.run_iter

    def in_turn(self: Any, data_batch: Any) -> None:
        if not turns.before():
            self.stop_training = True
            return
        run_iter(self, data_batch)
        turns.after()

    IterBasedTrainLoop.run_iter = in_turn
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
