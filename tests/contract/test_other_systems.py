"""Systems in environments of their own that are broken, hang, say nothing, or are of another release.

A stand-in interpreter answers for the system: tgsbench is what is tried.
"""

from __future__ import annotations

import json

import pytest

from tests.contract.cli import SMALL, tgsbench

VERSIONS = {"python": "3.11.7", "trl": "1.16.0", "torch": "2.13.0", "transformers": "5.24.0"}
VERSIONS |= {"accelerate": "1.15.0", "deepspeed": "0.19.8", "datasets": "4.8.4"}
STEP = '{"tokens": 512.0, "step_s": 0.5, "num_all_to_alls": 8, "all_to_all_bytes": 64, "loss": 6.2}'
RUN = ("run", "--preset", "tiny_cpu", "--engine", "trl", "--headless", "--json", "--steps", "2")
RUN += ("--warmup", "0", "--set", "training.checkpointing=full", "--set", "workload.corpus=lengths")


def an_environment(home, ranks: str, **versions: str) -> None:
    """Name an interpreter whose ranks do what `ranks` (a shell line, $RUN is the folder) says."""
    answer = json.dumps(VERSIONS | versions)
    script = (
        "#!/bin/sh\n"
        f"""if [ "$2" = -c ]; then printf '%s' '{answer}'; exit 0; fi\n"""
        'for RUN in "$@"; do :; done; RUN=$(dirname "$RUN")\n'
        f"{ranks}\n"
    )
    python = home / "python"
    python.write_text(script)
    python.chmod(0o755)
    named = tgsbench(home, "engines", "setup", "trl", "--python", str(python))
    assert named.returncode == 0, named.stderr


def result(home, *more: str) -> tuple[int, dict]:
    done = tgsbench(home, *RUN, *SMALL, *more)
    return done.returncode, json.loads(done.stdout)


def test_a_system_that_trains_is_measured(tmp_path):
    an_environment(tmp_path, f"printf '%s\\n' '{STEP}' '{STEP}' > $RUN/steps.jsonl")
    code, found = result(tmp_path)
    assert (code, found["status"], found["tgs"]["n"]) == (0, "ok", 2)
    assert not [w for w in found["warnings"] if "was tested" in str(w)]


def test_another_release_runs_and_is_told(tmp_path):
    an_environment(tmp_path, f"printf '%s\\n' '{STEP}' '{STEP}' > $RUN/steps.jsonl", trl="2.0.1")
    code, found = result(tmp_path)
    assert (code, found["status"]) == (0, "ok")
    assert any("trl 2.0.1 is installed, and 1.16.0 was tested" in str(w) for w in found["warnings"])
    assert "trl 2.0.1 is installed" in tgsbench(tmp_path, "engines").stdout


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ("exit 0", "ended with exit code 0 after 0 of 2 steps"),
        (f"echo '{STEP}' > $RUN/steps.jsonl", "ended with exit code 0 after 1 of 2 steps"),
        ("echo 'ValueError: no such data'", "after 0 of 2 steps: ValueError: no such data"),
        ("echo 'ValueError: no such data'; exit 3", "ValueError: no such data"),
        ("exit 3", "trl ended with exit code 3"),
    ],
)
def test_a_failure_is_one_whatever_the_exit_code_says(tmp_path, ranks, said):
    an_environment(tmp_path, ranks)
    code, found = result(tmp_path)
    assert code != 0 and found["status"] == "crashed"
    assert said in json.dumps(found["failure"])


def test_a_system_that_hangs_is_stalled_and_ended(tmp_path):
    an_environment(tmp_path, "exec sleep 600")
    code, found = result(tmp_path, "--set", "measure.stall_s=4", "--set", "measure.heartbeat_s=1")
    assert code != 0 and found["status"] == "stalled"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("#!/bin/sh\nexit 1\n", "is no Python that answers"),
        ("#!/no/such/interpreter\n", "does not start"),
        (f"#!/bin/sh\nprintf '%s' '{json.dumps(VERSIONS | {'deepspeed': ''})}'\n", "package deepspeed"),
    ],
)
def test_a_broken_environment_is_refused_with_the_command_that_makes_one(tmp_path, broken, said):
    python = tmp_path / "python"
    python.write_text(broken)
    python.chmod(0o755)
    tgsbench(tmp_path, "engines", "setup", "trl", "--python", str(python))
    done = tgsbench(tmp_path, *RUN, *SMALL)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert said in done.stderr and "tgsbench engines setup trl" in done.stderr
