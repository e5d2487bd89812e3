"""Engines that other packages bring: installed, run, and never in the way of a start when they are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.cli import ROOT, SMALL, environment

ECHO = ROOT / "examples" / "tgsbench_echo"


def tgsbench(home: Path, site: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The command line where `site` holds installed packages."""
    env = environment(home)
    env["PYTHONPATH"] = os.pathsep.join((str(site), env["PYTHONPATH"]))
    argv = [sys.executable, "-m", "tgsbench", *args]
    return subprocess.run(argv, cwd=home, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The example, installed without a network."""
    target = tmp_path_factory.mktemp("site")
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    argv += ["--disable-pip-version-check", "--no-index", "--target", str(target), str(ECHO)]
    subprocess.run(argv, check=True, capture_output=True)
    return target


def plugin(site: Path, name: str, source: str) -> None:
    """A package that offers `module:ENGINE` as an engine."""
    info = site / f"{name}_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}_plugin.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tgsbench.systems]\n{name} = {name}_plugin:ENGINE\n")


def test_the_example_engine_runs(tmp_path, site):
    args = ("run", "--preset", "tiny_cpu", "--engine", "echo", "--headless", "--json", "--steps", "2")
    args += ("--set", "engine.echo_every=2", "--name", "echoed")
    done = tgsbench(tmp_path, site, *args, *SMALL)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["engine"], result["tgs"]["n"]) == ("ok", "echo", 2)
    run = tmp_path / "runs" / "echoed"
    assert "echo_every = 2" in (run / "preset.toml").read_text()
    log = "".join(path.read_text() for path in (run / "log").iterdir())
    assert "echo: micro-step 2\n" in log
    assert "echo: micro-step 3\n" not in log


def test_the_example_is_listed_and_its_switches_are_checked(tmp_path, site):
    rows = json.loads(tgsbench(tmp_path, site, "engines", "--json").stdout)
    assert [(row["name"], row["available"]) for row in rows if row["kind"] == "native"][-1] == ("echo", True)
    rejected = tgsbench(
        tmp_path, site, "presets", "show", "tiny_cpu", "--set", "engine.name=echo",
        "--set", "engine.echo_every=0", "--set", "engine.zero_stage=2",
    )  # fmt: skip
    assert rejected.returncode == 4
    assert "engine.echo_every=0: must be at least 1" in rejected.stderr
    assert 'engine.zero_stage belongs to engine "fsdp2"' in rejected.stderr


def test_a_switch_of_a_plug_in_names_its_owner(tmp_path, site):
    done = tgsbench(tmp_path, site, "presets", "show", "tiny_cpu", "--set", "engine.echo_every=2")
    assert done.returncode == 4
    assert 'engine.echo_every belongs to engine "echo"; use --engine echo' in done.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('torn')", "RuntimeError: torn"),
        ("x = 1", "AttributeError"),
        ("ENGINE = 7", "is no EngineSpec"),
        ("from tgsbench.systems.registry import DEFAULT as ENGINE", "name the engine 'fsdp2', not 'bad'"),
    ],
)
def test_a_broken_plug_in_is_named_and_stops_nothing(tmp_path, source, said):
    plugin(tmp_path / "site", "bad", source)
    done = tgsbench(tmp_path, tmp_path / "site", "engines", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)[-1]
    assert (row["name"], row["kind"], row["available"]) == ("bad", "broken", False)
    assert "bad-plugin 1.0" in row["missing"][0] and said in row["missing"][0]
    words = ("run", "--preset", "tiny_cpu", "--engine", "bad", "--headless")
    asked = tgsbench(tmp_path, tmp_path / "site", *words)
    assert asked.returncode == 4
    assert said in asked.stderr and "Traceback" not in asked.stderr


def test_a_plug_in_cannot_take_the_name_of_an_engine_of_tgsbench(tmp_path):
    plugin(tmp_path / "site", "fsdp2", "raise SystemExit('imported')")
    done = tgsbench(tmp_path, tmp_path / "site", "engines", "--json")
    assert [row["name"] for row in json.loads(done.stdout)].count("fsdp2") == 1


def test_no_plug_in_is_looked_for_while_presets_are_listed(tmp_path):
    code = (
        "import sys\nfrom tgsbench.cli import main\nsys.argv = ['tgsbench', 'presets']\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        "from tgsbench.systems import plugins\n"
        "assert plugins._entry_points.cache_info().misses == 0"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
