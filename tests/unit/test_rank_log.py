"""A rank's log takes all output, and begins anew before it fills the disk."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.contract.cli import ROOT

RANK = """
import os, sys
from pathlib import Path
from tgsbench.training import rank_log
rank_log.MAX_BYTES = 1000
log = rank_log.RankLog(Path(sys.argv[1]), 3)
log.take_output()
for part in range(5):
    os.write(1, b"%d" % part * 700)
    os.write(2, b"e" * 100)
    log.turn_if_full()
print("last words", flush=True)
"""


def test_a_long_log_begins_anew_and_keeps_as_much_of_what_came_before(tmp_path):
    (tmp_path / "log").mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RANK, str(tmp_path)], env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    kept = {path.name: path.read_text() for path in (tmp_path / "log").iterdir()}
    assert kept == {
        "rank00003.log": "4" * 700 + "e" * 100 + "last words\n",
        "rank00003.log.1": ("2" * 700 + "e" * 100) + ("3" * 700 + "e" * 100),
    }


def test_a_folder_that_cannot_be_written_leaves_the_log_as_it_is(tmp_path):
    from tgsbench.training.rank_log import RankLog

    RankLog(tmp_path / "gone", 0).turn_if_full()
    assert not list(tmp_path.iterdir())
