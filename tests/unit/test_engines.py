"""The engine registry: what is there, what is missing, what installs it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner

from tgsbench.cli.engines import engines
from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.systems import availability, environments, registry


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def a_python(tmp_path, versions: dict[str, str]):
    """A stand-in interpreter that answers with these versions."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\nprintf '%s' '{msgspec.json.encode(versions).decode()}'\n")
    path.chmod(0o755)
    return path


def without(monkeypatch, *names: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n in names else found(n, *a))


def test_every_engine_has_options_that_carry_its_name():
    for spec in registry.engines():
        assert spec.options().name == spec.name
        assert spec.options.is_external == (spec.kind == "external")


def test_a_missing_package_names_the_extra_that_installs_it(monkeypatch):
    without(monkeypatch, "deepspeed")
    state = availability.state("deepspeed")
    assert not state.available
    assert state.missing == ["package deepspeed"]
    assert state.install == pip_install("deepspeed")


def test_several_missing_packages_are_installed_by_one_command(monkeypatch):
    without(monkeypatch, "deepspeed", "torch")
    assert availability.state("deepspeed").install == pip_install("train", "deepspeed")


def test_an_external_system_without_environment_names_the_setup_command():
    state = availability.state("llamafactory")
    assert not state.available
    assert state.install == "tgsbench engines setup llamafactory"
    with pytest.raises(TgsError) as caught:
        environments.require("llamafactory")
    assert caught.value.exit_code == ExitCode.MISSING_DEPENDENCY
    assert "engines setup llamafactory" in caught.value.hint


def test_a_named_interpreter_is_kept_and_asked(tmp_path):
    versions = {"python": "3.11.7", "xtuner": "0.2.0", "torch": "2.6", "transformers": "4.48.0"}
    environments.name_python("llamafactory", a_python(tmp_path, {}))
    environments.name_python("xtuner", a_python(tmp_path, versions))
    state = availability.state("xtuner")
    assert state.versions == versions
    assert [m.split(" in ")[0] for m in state.missing] == ["package mmengine", "package deepspeed"]
    assert environments.named_python("llamafactory") == environments.named_python("xtuner")


def test_a_complete_environment_can_run(tmp_path):
    versions = dict.fromkeys(("python", *environments.find_recipe("llamafactory").needs), "1")
    environments.name_python("llamafactory", a_python(tmp_path, versions))
    assert availability.state("llamafactory").available
    assert environments.require("llamafactory").python == str(tmp_path / "python")


def test_an_interpreter_that_is_none_is_refused(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho hello\n")
    broken.chmod(0o755)
    environments.name_python("xtuner", broken)
    assert "no Python that answers" in availability.state("xtuner").missing[0]
    with pytest.raises(TgsError, match="no such interpreter"):
        environments.name_python("xtuner", tmp_path / "nowhere")


def test_versions_are_read_from_another_interpreter():
    versions = environments.installed_versions(sys.executable, ("msgspec", "no-such-package"))
    assert versions["msgspec"] and versions["no-such-package"] == ""


def test_the_command_lists_engines_as_json():
    done = CliRunner().invoke(engines, ["--json"])
    rows = msgspec.json.decode(done.output, type=list[availability.EngineState])
    assert [row.name for row in rows] == registry.names()


def test_setup_dry_run_prints_the_two_commands(tmp_path):
    done = CliRunner().invoke(engines, ["setup", "llamafactory", "--dry-run"])
    first, second = done.output.splitlines()
    assert first.startswith("python -m venv ") and "llamafactory-0.9.5" in first
    assert "llamafactory==0.9.5" in second
    assert not (tmp_path / "cache").exists()


def test_setup_says_disk_and_time_and_goes_on_where_it_was_cut_off(monkeypatch):
    made, said = [], []
    monkeypatch.setattr(venv, "create", lambda folder, with_pip, clear: made.append(clear))
    monkeypatch.setattr(environments.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    environments.create("swift", said.append)
    python = environments.made_python("swift")
    python.parent.mkdir(parents=True)
    python.touch()
    environments.create("swift", said.append)
    assert made == [True, False], "what is installed stays"
    assert said[0].startswith("making ") and "about 2.5 GB" in said[0] and "9 minutes" in said[0]
    assert said[1].startswith("going on with ")


def test_a_system_on_no_index_asks_for_a_checkout_or_a_wheel(tmp_path):
    setup = ["setup", "xtuner_v1", "--dry-run"]
    done = CliRunner().invoke(engines, setup)
    assert "needs a checkout or a wheel" in done.exception.msg
    assert done.exception.hint == "tgsbench engines setup xtuner_v1 --source PATH"
    done = CliRunner().invoke(engines, [*setup, "--source", str(tmp_path)])
    assert "neither a checkout nor a wheel" in done.exception.msg
    (tmp_path / "pyproject.toml").touch()
    done = CliRunner().invoke(engines, [*setup, "--source", str(tmp_path)])
    assert done.output.splitlines()[-1].endswith(f"pip install --no-deps {tmp_path}")
    done = CliRunner().invoke(engines, ["setup", "swift", "--dry-run", "--source", str(tmp_path)])
    assert "from the package index" in done.exception.msg


def test_a_release_without_the_modules_is_not_taken_for_the_system(tmp_path):
    recipe = environments.find_recipe("xtuner_v1")
    versions = dict.fromkeys(("python", *recipe.needs), "0.2.0")
    environments.name_python("xtuner_v1", a_python(tmp_path, versions))
    assert availability.state("xtuner_v1").missing == [f"{recipe.modules[0]} in {tmp_path / 'python'}"]
    environments.name_python("xtuner_v1", a_python(tmp_path, versions | {recipe.modules[0]: "there"}))
    state = availability.state("xtuner_v1")
    assert state.available and recipe.modules[0] not in state.versions


def test_a_file_below_a_package_is_found_without_importing_it():
    asked = ("tgsbench/systems/spec.py", "tgsbench/no_such.py", "no_such/file.py")
    said = environments.installed_versions(sys.executable, asked)
    assert [said[name] for name in asked] == ["there", "", ""]


def test_an_unknown_system_names_the_nearest_one():
    done = CliRunner().invoke(engines, ["setup", "xtunr"])
    assert isinstance(done.exception, TgsError)
    assert "nearest: xtuner" in done.exception.msg


def test_the_registry_imports_no_torch():
    code = "import sys\nfrom tgsbench.systems import availability\n"
    code += "availability.states(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
