"""Finds a config.json of transformers, in a folder, by its path or in the hub's local cache, and reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tgsbench.errors import ExitCode, TgsError
from tgsbench.presets.catalog import load_model
from tgsbench.safe_files import check_depth, check_numbers, harmless, read_regular, reason_of
from tgsbench.schema.model import ModelShape
from tgsbench.system.hub_cache import newest_snapshot

if TYPE_CHECKING:
    from tgsbench.models.config_json import ConfigShape

_MAX_BYTES = 1 << 20
"""The longest public ones, with a quantisation table for every layer, have some 100 kB."""
_HUB_NAME = r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$"
"""Compiled where it is used: most presets name no file."""


def is_path(text: str) -> bool:
    """Does a model's name mean a file, a folder or a hub name, not one of presets/models?"""
    return "/" in text or text.endswith(".json") or text in (".", "..")


def short_name(text: str) -> str:
    """What a model is called by its path or hub name: its folder, or a file that is called otherwise."""
    if not is_path(text):
        return text
    path = Path(text).expanduser()
    if path.name == "config.json":
        return path.parent.resolve().name
    return path.stem if path.suffix == ".json" else path.resolve().name


def read_model(text: str, base: Path | None = None) -> ConfigShape:
    """The shape of the config.json that `text` means; a relative path is looked up from `base` first.

    Raises TgsError when nothing is found there, and for a file that is no configuration we understand.
    """
    from tgsbench.models.config_json import shape_of  # presets that name no file do without it

    path = _find(text, base)
    document = _document(path)
    name = short_name(str(path))
    if re.match(_HUB_NAME, text) and "snapshots" in path.parts:
        name = text.rpartition("/")[2]
    return shape_of(document, name or "model", str(path))


def find_model(text: str) -> ModelShape:
    """The shape that a name of presets/models, or a path, means; raises TgsError where there is none."""
    return read_model(text).shape if is_path(text) else load_model(text)


def as_table(shape: ModelShape) -> dict[str, Any]:
    """The shape as a TOML table: what is set, without defaults."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(shape)}
    table = msgspec.to_builtins(shape)
    kept = {key: value for key, value in table.items() if getattr(shape, key) != defaults[key]}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}


def _find(text: str, base: Path | None) -> Path:
    given = Path(text).expanduser()
    for place in ([base / given] if base is not None else []) + [given]:
        for path in (place, place / "config.json"):
            if path.is_file():
                return path
    if re.match(_HUB_NAME, text) and (cached := newest_snapshot(text, "config.json")) is not None:
        return cached
    where = f"{given}/config.json" if given.is_dir() else text
    raise TgsError(
        f"{where}: there is no such configuration",
        hint="name a config.json, its folder, a hub name of the local cache, or one of `tgsbench models`",
        exit_code=ExitCode.BAD_PRESET,
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(read_regular(path, _MAX_BYTES, follow=True))
        check_depth(document)
        check_numbers(document)
    except OSError as error:
        raise TgsError(f"{path}: {reason_of(error)}", exit_code=ExitCode.BAD_PRESET) from error
    except (ValueError, RecursionError) as error:
        raise TgsError(
            f"{path}: no config.json: {reason_of(error)}", exit_code=ExitCode.BAD_PRESET
        ) from error
    if not isinstance(document, dict):
        raise TgsError(f"{path}: no config.json: expected an object", exit_code=ExitCode.BAD_PRESET)
    return harmless(document)
