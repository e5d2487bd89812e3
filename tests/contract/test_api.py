"""`tgsbench.run` as a program calls it: in a script without a guard, in a thread, interrupted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.contract.cli import environment

pytestmark = pytest.mark.dist

SMALL = {
    "model.num_layers": 1, "model.hidden_size": 64, "model.head_dim": 8, "model.intermediate_size": 96,
    "model.vocab_size": 512, "workload.seq_len": 256, "measure.steps": 2, "measure.warmup": 1,
}  # fmt: skip

SCRIPT = f"""
import json, signal, sys, threading
import tgsbench

before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
kinds = set()
found = []

def measure():
    hear = lambda events: kinds.update(type(event).__name__ for event in events)
    found.append(tgsbench.run("tiny_cpu", {SMALL!r}, on_events=hear))

if sys.argv[1] == "thread":
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
else:
    measure()
after = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
loaded = tgsbench.load_run(found[0].run_id)
print(json.dumps({{
    "status": found[0].status, "tgs": found[0].tgs.median, "stored": loaded.tgs.median,
    "same": before == after, "kinds": sorted(kinds),
}}))
"""

INTERRUPTED = f"""
import os, signal, sys
import tgsbench
from tgsbench.schema.events import Step

def interrupt(events):
    if any(isinstance(event, Step) for event in events):
        signal.raise_signal(signal.SIGINT)

try:
    tgsbench.run("tiny_cpu", {SMALL | {"measure.steps": 100000}!r}, on_events=interrupt)
except KeyboardInterrupt:
    print("interrupted", tgsbench.load_run().status)
"""


def script(home, text, *args):
    return subprocess.run(
        [sys.executable, "-c", text, *args], cwd=home, env=environment(home), capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


REPEATED = f"""
import tgsbench

found = tgsbench.run("tiny_cpu", {SMALL!r}, repeats=2, name="twice")
row = found.row
print([run.status for run in found.runs], row.repeats, row.ci95[0] < row.tgs < row.ci95[1])
print([run.run_id for run in found.runs], tgsbench.compare("twice", found)[0].ratio.value)
"""


def test_a_program_measures_several_times_and_compares_the_group(tmp_path):
    done = script(tmp_path, REPEATED)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["['ok', 'ok'] 2 True", "['twice-1', 'twice-2'] 1.0"]


@pytest.mark.parametrize("where", ["script", "thread"])
def test_a_program_measures_and_only_its_own_words_are_printed(tmp_path, where):
    done = script(tmp_path, SCRIPT, where)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found["status"] == "ok" and found["tgs"] > 0 and found["tgs"] == found["stored"]
    assert {"Hello", "Step", "Bye"} <= set(found["kinds"])
    assert found["same"], "signal handlers are as they were"


def test_ctrl_c_stores_what_was_measured_and_raises(tmp_path):
    done = script(tmp_path, INTERRUPTED)
    assert done.stdout == "interrupted cancelled\n", done.stderr
