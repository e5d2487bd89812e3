"""The doctor looks at this very machine."""

from __future__ import annotations

import json

import pytest

from tests.contract.cli import tgsbench

pytestmark = pytest.mark.dist


def test_the_doctor_tells_of_torch_and_of_ranks_that_talk_as_json(tmp_path):
    done = tgsbench(tmp_path, "doctor", "--json")
    document = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    found = {check["what"]: check for check in document["checks"]}
    assert {
        "python",
        "torch",
        "GPUs",
        "attention",
        "ranks talk",
        "disk",
        "/dev/shm",
        "open files",
        "hub",
    } <= set(found)
    assert found["torch"]["level"] == "ok"
    assert "GB/s each way" in found["ranks talk"]["found"]
    assert all(check["remedy"] for check in document["checks"] if check["level"] != "ok")
    assert done.returncode == (16 if document["level"] == "failure" else 0)


def test_a_machine_without_room_for_runs_fails_with_its_exit_code(tmp_path):
    (tmp_path / "runs").write_text("in the way")
    done = tgsbench(tmp_path, "doctor")
    assert done.returncode == 16
    assert "✗ fail  disk" in done.stdout
    assert "try: choose another folder" in done.stdout
