"""The command that adds packages names what is there: this clone, or the wheel that was installed."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from tgsbench import __version__, install

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


class Installed:
    """What pip notes beside an installed package."""

    def __init__(self, direct_url: str | None) -> None:
        self._direct_url = direct_url

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._direct_url


def test_a_clone_is_installed_in_place():
    assert install.pip_install("train", "gpu", "train") == f'pip install -e "{ROOT}[train,gpu]"'
    assert install.pip_install() == ""
    assert install.upgrade() == f"git -C {ROOT} pull"


@pytest.mark.parametrize(
    ("noted", "named"),
    [
        ('{"url": "file:///a%20b/tgsbench-9-py3-none-any.whl"}', "/a b/tgsbench-9-py3-none-any.whl"),
        ('{"url": "file:///clone", "dir_info": {}}', f"tgsbench-{__version__}-py3-none-any.whl"),
        (None, f"tgsbench-{__version__}-py3-none-any.whl"),
        ("not json", f"tgsbench-{__version__}-py3-none-any.whl"),
    ],
)
def test_elsewhere_the_wheel_is_named(monkeypatch, noted, named):
    monkeypatch.setattr(install, "_clone", lambda: None)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(noted))
    assert install.pip_install("profile") == f'pip install "{named}[profile]"'
    assert "wheel" in install.upgrade()


def test_no_extra_needs_torch_to_be_built():
    assert "flash-attn" not in " ".join(package for extra in EXTRAS.values() for package in extra)


def test_every_extra_that_the_code_names_exists():
    text = "\n".join(path.read_text() for path in (ROOT / "tgsbench").rglob("*.py"))
    named = set(re.findall(r"pip_install\(['\"](\w+)['\"]\)", text))
    assert {"train", "profile", "serve", "deepspeed", "gpu"} <= named <= set(EXTRAS)
    assert not re.findall(r"pip install (?:-U )?['\"]?tgsbench\b", text), "it is on no package index"
