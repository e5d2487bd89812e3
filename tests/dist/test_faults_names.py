"""Folders whose names the locale cannot spell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.cli import SMALL, environment

pytestmark = pytest.mark.dist
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(("name", "locale"), [("größe".encode(), C_LOCALE), (b"gr\xf6\xdfe", {})])
def test_a_folder_that_the_locale_cannot_spell_holds_runs_as_any_other(tmp_path, name, locale):
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    home.mkdir()
    env = {**environment(home), **locale}
    env.pop("TGSBENCH_RUNS")

    def tgsbench(*words: str) -> bytes:
        argv = [sys.executable, "-m", "tgsbench", *words]
        done = subprocess.run(
            argv, cwd=home, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        return done.stdout

    root = str(home / "runs")
    tgsbench("run", "--preset", "tiny_cpu", "--headless", "--steps", "1", *SMALL, "--output", root)
    assert json.loads(tgsbench("runs", "--json", "--output", root))[0]["status"] == "ok"
    assert json.loads(tgsbench("show", "latest", "--json", "--output", root))["tgs"]["n"] == 1
    assert b"TGS" in tgsbench("show", "latest", "--output", root)
