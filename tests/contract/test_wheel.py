"""The wheel carries the data files, and the base install's commands find them there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from tests.contract.cli import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_presets_models_hardware_references_and_recipes_are_shipped(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for path in (
        "presets/llama2_70b_1M.toml",
        "presets/models/llama2_70b.toml",
        "presets/hardware/H100-SXM5-80GB.toml",
        "presets/references/xtuner.toml",
        "presets/references/alpaca_llama2_lengths.json",
        "profiles/hotspots.toml",
    ):
        assert f"tgsbench/_data/{path}" in names
    assert "tgsbench/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith("tests/") for name in names)


def test_the_unpacked_wheel_lists_presets_away_from_the_source_tree(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-m", "tgsbench", "presets"],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(tmp_path / "site"), XDG_CONFIG_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "llama2_70b_1M" in done.stdout


def test_the_wheel_is_of_the_version_that_the_program_prints(wheel):
    from tgsbench import __version__

    assert wheel.name == f"tgsbench-{__version__}-py3-none-any.whl"


def test_an_installed_wheel_names_itself_where_a_package_is_missing(wheel, tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), f"{wheel}[profile]"], check=True, capture_output=True)
    code = "from tgsbench.install import pip_install; print(pip_install('profile'))"
    env = dict(os.environ, PYTHONPATH=str(site))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == f'pip install "{wheel}[profile]"', done.stderr
