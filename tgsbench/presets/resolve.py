"""Turn a preset file plus `--set` into one typed Preset, with the origin of every value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.presets import catalog, config_file, engine_table
from tgsbench.presets.data_names import place_paths
from tgsbench.presets.effect import SET, idle_values
from tgsbench.presets.engine_table import EngineTable
from tgsbench.presets.validate import mesh_problems
from tgsbench.safe_files import check_depth, read_toml
from tgsbench.schema.preset import Preset

Origins = dict[str, str]
"""Dotted key -> where its value came from."""

_MAX_EXTENDS = 8
_MAX_DOTS = 8


class Resolved(msgspec.Struct, frozen=True):
    """A preset and where each of its values came from (defaults are not listed)."""

    preset: Preset
    origins: Origins


def resolve(name_or_path: str | Path, sets: Iterable[str] = ()) -> Resolved:
    """Resolve a preset by name, or by the path of a .toml file, with `key=value` overrides.

    Raises TgsError listing every problem found.
    """
    path = name_or_path if isinstance(name_or_path, Path) else catalog.preset_path(name_or_path)
    document, origins = _load(path)
    for assignment in sets:
        apply_set(document, origins, assignment)
    document.setdefault("name", path.stem)
    preset, problems = build(document, origins)
    if preset is not None:
        problems += idle_values(preset, origins, str(path))
    if preset is None or problems:
        raise _problems_error(str(path), problems)
    return Resolved(preset, origins)


def named(text: str) -> str | Path:
    """What the command line calls a preset: its name, or the path of a .toml file."""
    return Path(text) if text.endswith(".toml") else text


def from_document(document: dict[str, Any], source: str = "preset") -> Preset:
    """Type and check a document that is complete, such as a run's own preset.toml."""
    preset, problems = build(document, {})
    if preset is None or problems:
        raise _problems_error(source, problems)
    return preset


def check(path: Path) -> list[str]:
    """Every problem of a preset file, all at once; an empty list when it can be run."""
    try:
        document, origins = _load(path)
    except TgsError as error:
        return [error.msg]
    document.setdefault("name", path.stem)
    preset, problems = build(document, origins)
    return problems if preset is None else [*problems, *idle_values(preset, origins, str(path))]


def to_toml(preset: Preset) -> str:
    """Write a preset as TOML that `from_document` reads back to the same value."""
    import tomli_w  # here, for `tgsbench presets` and most commands write none

    return tomli_w.dumps(_without_null(msgspec.to_builtins(preset)))


def _without_null(table: dict[str, Any]) -> dict[str, Any]:
    """The table without what is not there, which TOML has no word for."""
    return {
        key: _without_null(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def build(document: dict[str, Any], origins: Origins) -> tuple[Preset | None, list[str]]:
    """Type a merged document and check what types cannot say; returns all problems with origins."""
    if torn := _not_text(document, origins):
        return None, torn
    problems = _normalise(document, origins)
    table = engine_table.read(document.get("engine", {}))
    try:
        options = msgspec.convert(table.own, table.options)
        rest = {key: value for key, value in document.items() if key != "engine"}
        preset = msgspec.structs.replace(msgspec.convert(rest, Preset), engine=options)
    except msgspec.ValidationError as error:
        # Only now is every key looked at by itself: msgspec stops at the first problem.
        return None, [*problems, *_all_key_problems(document, origins, table)] or [str(error)]
    if not table.is_known:
        return None, [*problems, *_all_key_problems(document, origins, table)]
    problems += _not_finite(document, origins)
    return preset, problems or [*mesh_problems(preset), *_engine_problems(table, origins)]


def _load(path: Path, depth: int = 0) -> tuple[dict[str, Any], Origins]:
    document = read_toml(path)
    if depth > _MAX_EXTENDS:
        raise TgsError(f"{path}: `extends` goes in a circle", exit_code=ExitCode.BAD_PRESET)
    base: dict[str, Any] = {}
    origins: Origins = {}
    parent = document.pop("extends", None)
    _place_model(document, path.parent)
    place_paths(document, path.parent)
    if parent is not None:
        base, origins = _load(_extended(path, parent), depth + 1)
    _merge(base, document, origins, str(path))
    return base, origins


def _place_model(document: dict[str, Any], folder: Path) -> None:
    """A config.json is looked up beside the preset that names it."""
    model = document.get("model")
    if isinstance(model, str) and config_file.is_path(model) and (folder / model).exists():
        document["model"] = str((folder / model).resolve())


def _extended(path: Path, parent: object) -> Path:
    if not isinstance(parent, str):
        raise TgsError(f"{path}: extends: expected a preset name", exit_code=ExitCode.BAD_PRESET)
    if parent == path.stem:
        shipped = catalog.shipped("presets") / f"{parent}.toml"
        if shipped.resolve() != path.resolve() and shipped.is_file():
            return shipped
    return catalog.preset_path(parent)


def _merge(base: dict[str, Any], over: dict[str, Any], origins: Origins, origin: str, at: str = "") -> None:
    for key, value in over.items():
        dotted = f"{at}{key}"
        if isinstance(value, dict):
            if dotted == "model" and "name" in value and isinstance(base.get("model"), str):
                base["model"] = {}
            if dotted == "model" and isinstance(base.get("model"), str):
                base["model"] = _model_table(base["model"], origins)
            table = base.setdefault(key, {})
            if isinstance(table, dict):
                _merge(table, value, origins, origin, f"{dotted}.")
                continue
        base[key] = value
        origins[dotted] = origin


def _model_table(name: str, origins: Origins) -> dict[str, Any]:
    if config_file.is_path(name):
        found = config_file.read_model(name)
        for field, origin in found.origins.items():
            origins[f"model.{field}"] = origin
        return config_file.as_table(found.shape)
    document, path = catalog.model_document(name)
    for key in document:
        origins[f"model.{key}"] = str(path)
    return document


def apply_set(document: dict[str, Any], origins: Origins, assignment: str) -> None:
    """Put one `key=value` over a document; a key below a model's name spells that model out first.

    Raises TgsError for what is no assignment, or no model's name.
    """
    key, value = parse_assignment(assignment)
    if key.count(".") > _MAX_DOTS:
        raise TgsError(
            f"--set {key[:40]}…: a key of {key.count('.') + 1:,} parts", exit_code=ExitCode.BAD_PRESET
        )
    for part in reversed(key.split(".")):
        value = {part: value}
    place_paths(value, Path.cwd())
    _merge(document, value, origins, SET)


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """Key and value of `key=value`; the value is JSON where it reads as such, else the text itself.

    Raises TgsError when there is no key or no `=`.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise TgsError(
            f"--set {assignment}: write key=value, such as --set parallel.sp=4",
            exit_code=ExitCode.BAD_PRESET,
        )
    return key.strip(), _parse_value(text)


def _parse_value(text: str) -> Any:
    try:
        value = json.loads(text)
        check_depth(value)
    except (ValueError, RecursionError):  # also a number of more than 4,300 digits
        return text
    return value


def _normalise(document: dict[str, Any], origins: Origins) -> list[str]:
    """Expand the model's name and read lengths such as "128k"."""
    problems = []
    model = document.get("model")
    if isinstance(model, str):
        try:
            document["model"] = _model_table(model, origins)
        except TgsError as error:
            problems.append(f"model: {error.msg}{_from(origins, 'model')}")
    workload = document.get("workload")
    if isinstance(workload, dict) and "seq_len" in workload:
        try:
            workload["seq_len"] = units.parse_length(workload["seq_len"])
        except ValueError as error:
            problems.append(f"workload.seq_len: {error}{_from(origins, 'workload.seq_len')}")
            workload["seq_len"] = 1  # named once: what types say of it would only repeat it
    return problems


def _all_key_problems(document: dict[str, Any], origins: Origins, table: EngineTable) -> list[str]:
    """Unknown, missing and wrongly typed keys of a whole document."""
    rest = {key: value for key, value in document.items() if key != "engine"}
    problems = _key_problems(rest, origins, Preset, "")
    if not isinstance(table.own, dict):
        return [*problems, f"engine: expected a table [engine]{_from(origins, 'engine')}"]
    own = {key: value for key, value in table.own.items() if f"engine.{key}" not in table.refused}
    problems += _key_problems(own, origins, table.options, "engine.")
    return problems + _engine_problems(table, origins)


def _key_problems(document: dict[str, Any], origins: Origins, kind: type[Any], at: str) -> list[str]:
    """Unknown, missing and wrongly typed keys of one table and those below it."""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    problems = []
    for key, value in document.items():
        dotted = f"{at}{key}"
        where = _from(origins, dotted)
        if key not in fields:
            meant = " or ".join(_tables_with(dotted))
            told = f"did you mean {meant}?" if meant else nearest(key, fields)
            problems.append(f"{dotted}: unknown key; {told}{where}")
        elif isinstance(fields[key], type) and issubclass(fields[key], msgspec.Struct):
            if isinstance(value, dict):
                problems += _key_problems(value, origins, fields[key], f"{dotted}.")
            elif dotted != "model":
                problems.append(f"{dotted}: expected a table [{dotted}]{where}")
        else:
            problems += _value_problems(dotted, value, fields[key], where)
    required = (field.name for field in msgspec.structs.fields(kind) if field.required)
    problems += [f"{at}{name}: missing" for name in required if name not in document]
    return problems


def _tables_with(key: str) -> list[str]:
    """The dotted keys of a preset whose last part is `key`: "sp" gives ["parallel.sp"]."""
    tables = {
        field.name: field.type
        for field in msgspec.structs.fields(Preset)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
    }
    return [f"{name}.{key}" for name, kind in tables.items() if key in kind.__struct_fields__]


def _engine_problems(table: EngineTable, origins: Origins) -> list[str]:
    return [f"{problem}{_from(origins, dotted)}" for dotted, problem in table.refused.items()]


def _not_finite(document: dict[str, Any], origins: Origins, at: str = "") -> list[str]:
    problems = []
    for key, value in document.items():
        if isinstance(value, dict):
            problems += _not_finite(value, origins, f"{at}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            problems.append(f"{at}{key}: {value} is not a finite number{_from(origins, at + key)}")
    return problems


def _not_text(document: dict[str, Any], origins: Origins, at: str = "") -> list[str]:
    """Keys and values that are no UTF-8, as bytes of a command line may be: no file could hold them."""
    problems = []
    for key, value in document.items():
        if isinstance(value, dict):
            problems += _not_text(value, origins, f"{at}{key}.")
        if not _is_text(key) or not _is_text(value):
            problems.append(f"{at}{ascii(key)[1:-1]}: {value!a} is no UTF-8 text{_from(origins, at + key)}")
    return problems


def _is_text(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_text, value))
    return not isinstance(value, str) or value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def _value_problems(dotted: str, value: Any, hint: Any, where: str) -> list[str]:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        # As it is written in a file or behind --set: true, not True.
        shown = _shortened(repr(value) if isinstance(value, str) else json.dumps(value, default=str))
        if hint in _WANTED:
            return [f"{dotted}: {shown} is not {_WANTED[hint]}{where}"]
        choices = [str(choice) for choice in get_args(hint)]
        if choices:
            return [f"{dotted}: {shown} is none of {', '.join(choices)}{where}"]
        return [f"{dotted}: {error}{where}"]
    return []


def _shortened(text: str) -> str:
    """A value as a message shows it: one of thousands of letters would be all of it."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


_SHOWN: Final = 60

_WANTED: Final[dict[Any, str]] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
    list[str]: "a list of texts",
}  # fmt: skip
"""What people call the types of a preset's values."""


def _from(origins: Origins, dotted: str) -> str:
    return f" ({origins[dotted]})" if dotted in origins else ""


def _problems_error(source: str, problems: list[str]) -> TgsError:
    is_base = Path(source).stem.startswith("_")  # nobody named it: what was asked for is at fault
    head = f"{'what was asked for' if is_base else source}: {units.counted(len(problems), 'problem')}"
    return TgsError(
        "\n  ".join([head, *problems]),
        hint="`tgsbench models` lists the models that are known"
        if is_base
        else "`tgsbench presets show NAME --origin` shows every value and where it came from, "
        "`tgsbench presets explain KEY` what a key does",
        exit_code=ExitCode.BAD_PRESET,
    )
