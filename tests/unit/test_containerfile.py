"""The Containerfile where no builder and no registry is: what it names is there, and it needs no root."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) with continued lines joined and comments left out."""
    lines = (ROOT / "Containerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_its_extras_and_files_are_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runs = " ".join(words for name, words in instructions() if name == "RUN")
    asked = re.findall(r'"\.\[([\w,-]+)\]"', runs)
    assert asked
    assert {extra for group in asked for extra in group.split(",")} <= set(project["optional-dependencies"])
    assert all((ROOT / name).is_file() for name in re.findall(r"-c (\w+\.txt)", runs))


def test_it_runs_as_a_user_with_a_number_who_owns_the_folder_of_runs():
    found = instructions()
    (user,) = [words for name, words in found if name == "USER"]
    runs = [words for name, words in found if name == "RUN"]
    assert user.isdigit() and user != "0"
    assert any(f"--uid {user} " in words and "chown bench /runs" in words for words in runs)
    assert ("VOLUME", "/runs") in found
    assert any(name == "ENV" and "TGSBENCH_RUNS=/runs" in words for name, words in found)


def test_its_last_word_is_the_program_and_nothing_is_fetched_by_address():
    found = instructions()
    assert found[-1] == ("CMD", '["tgsbench", "doctor"]')
    assert not [name for name, _ in found if name == "ADD"]
    assert "http" not in " ".join(words for _, words in found)
