"""Saves an edited preset as one of the user's own: it extends its base and holds only what was changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w

from tgsbench.errors import ExitCode, TgsError
from tgsbench.presets import catalog, config_file
from tgsbench.presets.resolve import apply_set, check
from tgsbench.schema.model import ModelShape
from tgsbench.system.config import config_dir


def save_user_preset(name: str, base: str, assignments: Iterable[str]) -> Path:
    """Write NAME.toml into the user's presets folder: `extends = base` plus `key=value` assignments.

    Raises TgsError when the name is no file name, is taken, or what was written does not validate.
    """
    path = check_free(name)
    document: dict[str, Any] = {"extends": base}
    for assignment in assignments:
        apply_set(document, {}, assignment)
    _write(path, document)
    problems = check(path)
    if problems:
        path.unlink()
        raise _refused("; ".join(problems))
    return path


def check_free(name: str) -> Path:
    """Where a preset of this name would be saved.

    Raises TgsError when the name is no file name, or is taken.
    """
    if not catalog.is_name(name) or name.startswith("_"):
        raise _refused(f"preset name {name!r} may hold letters, digits, '_', '.', '-' only")
    path = config_dir() / "presets" / f"{name}.toml"
    if path.exists():
        raise _refused(f"{path} exists already", "choose another name, or edit the file")
    return path


def save_user_model(name: str, shape: ModelShape) -> Path:
    """Write NAME.toml into the user's presets/models folder.

    Raises TgsError when the name is no file name, is taken, or the file cannot be written.
    """
    if not catalog.is_name(name):
        raise _refused(f"model name {name!r} may hold letters, digits, '_', '.', '-' only", "--name NAME")
    path = config_dir() / "presets" / "models" / f"{name}.toml"
    if path.exists():
        raise _refused(f"{path} exists already", "--name NAME calls it otherwise, or edit the file")
    _write(path, config_file.as_table(shape))
    return path


def _write(path: Path, document: dict[str, Any]) -> None:
    try:
        data = tomli_w.dumps(document).encode()
    except (TypeError, ValueError) as error:  # null, or bytes of a command line that are no UTF-8
        raise _refused(f"a value cannot be written as TOML: {error}") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise _refused(f"cannot write {path}: {error.strerror}") from error


def _refused(msg: str, hint: str = "") -> TgsError:
    return TgsError(msg, hint=hint, exit_code=ExitCode.BAD_PRESET)
