"""Where presets, model shapes, GPU peaks and published rows live, and how they are read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.models.registry import family_names, is_family
from tgsbench.safe_files import read_regular, read_toml, reason_of, toml_document
from tgsbench.schema.hardware import Constants, GpuSpec, Link
from tgsbench.schema.preset import ModelShape
from tgsbench.schema.reference import PublishedRows, ReferenceRow
from tgsbench.system.config import config_dir

_PACKAGE = Path(__file__).resolve().parent.parent
T = TypeVar("T")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")


def is_name(text: str) -> bool:
    """Can it name a preset (and so a file)?"""
    return _NAME.match(text) is not None


def free_name(name: str) -> str:
    """The name, or the first of name_2, name_3 … that no preset has."""
    taken = files("presets")
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(each for each in numbered if each not in taken)


def shipped(kind: str) -> Path:
    """Folder of shipped data, `presets` or `profiles`: in the wheel, else in the source tree."""
    packed = _PACKAGE / "_data" / kind
    return packed if packed.is_dir() else _PACKAGE.parent / kind


def files(kind: str, sub: str = "") -> dict[str, Path]:
    """Every TOML file of a kind by name; names that begin with _ are bases for `extends` only.

    Searched are ./KIND, the XDG config folder and what is shipped; the first that has a name wins.
    """
    config = os.environ.get("XDG_CONFIG_HOME", "")
    folders = _candidates(kind, sub, os.getcwd(), config)  # noqa: PTH109 - a cache key
    return _listing(tuple([(folder, _mtime_ns(folder)) for folder in folders]))


@cache
def _candidates(kind: str, sub: str, cwd: str, config: str) -> tuple[str, ...]:
    paths = (Path(cwd) / kind, config_dir() / kind, shipped(kind))
    # realpath, for Path.resolve raises on a link to itself; text, for a stat of a Path takes twice as long
    return tuple(dict.fromkeys(os.path.join(os.path.realpath(path), sub) for path in paths))  # noqa: PTH118


def _mtime_ns(folder: str) -> int:
    """When something was put into a folder or taken out of it; 0 where there is none, or it is barred."""
    try:
        return os.stat(folder).st_mtime_ns  # noqa: PTH116 - asked four times a preset
    except OSError:
        return 0


@cache
def _listing(folders: tuple[tuple[str, int], ...]) -> dict[str, Path]:
    """TOML files of some folders; a changed folder has another mtime and is read anew."""
    found: dict[str, Path] = {}
    for folder, mtime_ns in folders:
        for name in _toml_names(folder) if mtime_ns else ():
            found.setdefault(name.removesuffix(".toml"), Path(folder, name))
    return found


def _toml_names(folder: str) -> list[str]:
    """None of a folder that may not be read, or that went meanwhile; texts sort in a third of paths' time."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".toml"))  # noqa: PTH208
    except OSError:
        return []


def list_presets() -> list[str]:
    """Names of all presets that can be run, sorted by model, then length."""

    def order(name: str) -> tuple[str, int, str]:
        head, _, tail = name.rpartition("_")
        try:
            return head, units.parse_length(tail), name
        except ValueError:
            return name, 0, name

    return sorted((name for name in files("presets") if not name.startswith("_")), key=order)


def preset_path(name: str) -> Path:
    """Path of the preset called `name`; TgsError names the nearest ones."""
    known = files("presets")
    if name in known:
        return known[name]
    if not is_name(name):
        raise TgsError(
            f"preset name {name!r} may hold letters, digits, '_', '.', '-' only",
            hint="`tgsbench presets` lists them; `tgsbench presets validate FILE` reads a path",
            exit_code=ExitCode.BAD_PRESET,
        )
    runnable = [n for n in known if not n.startswith("_")]
    raise TgsError(
        f"no preset called {name!r}; {nearest(name, runnable)}",
        hint="`tgsbench presets` lists them all",
        exit_code=ExitCode.BAD_PRESET,
    )


def model_document(name: str) -> tuple[dict[str, Any], Path]:
    """The raw table of presets/models/NAME.toml and its path.

    Raises TgsError when no model has that name.
    """
    known = files("presets", "models")
    if name not in known:
        raise TgsError(f"no model called {name!r}; {nearest(name, known)}", exit_code=ExitCode.BAD_PRESET)
    return read_toml(known[name]), known[name]


def load_model(name: str) -> ModelShape:
    """Read one model's shape; raises TgsError for an unknown model, or a shape of an unknown family."""
    document, path = model_document(name)
    shape = _convert(document, ModelShape, path)
    if not is_family(shape.family):
        why = f"{path}: family={shape.family!r}: no such family; {nearest(shape.family, family_names())}"
        raise TgsError(why, exit_code=ExitCode.BAD_PRESET)
    return shape


@cache
def load_gpus() -> dict[str, GpuSpec]:
    """All known GPUs by name; files that cannot be read are passed over, see `data_problems`."""
    return _readable("hardware", lambda document, path: _convert(document, GpuSpec, path))


def find_gpu(device: str) -> GpuSpec | None:
    """The GPU whose key or driver name this is, or None: an unknown GPU has no peak.

    A name is never matched by a part of it: GB200 is no B200, "H200 NVL" a card of another power.
    """
    if (known := files("presets", "hardware").get(device)) and (found := _gpu_at(known)):
        return found
    wanted = _without_maker(device)
    return next((gpu for gpu in load_gpus().values() if wanted in _driver_names(gpu)), None)


@cache
def _gpu_at(path: Path) -> GpuSpec | None:
    """One file alone: a plan needs no other. None where it cannot be read, see `data_problems`."""
    return _one_readable(path, GpuSpec)


def _driver_names(gpu: GpuSpec) -> list[str]:
    return [_without_maker(name) for name in (gpu.name, *gpu.matches)]


def _without_maker(device: str) -> str:
    """A driver's name for a device, without the maker's and in lower case."""
    words = device.lower().split()
    while words and words[0] in ("nvidia", "amd", "tesla"):
        words = words[1:]
    return " ".join(words)


@cache
def load_links() -> dict[str, Link]:
    """All known interconnects between nodes by name."""
    return _readable("links", lambda document, path: _convert(document, Link, path))


def load_link(name: str) -> Link | None:
    """One interconnect, whose file alone is read; None for an unknown name or a damaged file."""
    path = files("presets", "links").get(name)
    return _one_readable(path, Link) if path else None


def _one_readable(path: Path, kind: type[T]) -> T | None:
    try:
        return _convert(read_toml(path), kind, path)
    except TgsError:
        return None


@cache
def load_constants() -> list[Constants]:
    """Fitted constants, the user's own before the shipped ones."""
    return list(_readable("constants", lambda document, path: _convert(document, Constants, path)).values())


@cache
def constants_of(gpu: str) -> Constants | None:
    """Constants fitted for a GPU, the user's own first; other GPUs' files are not parsed."""
    quoted = f'"{gpu}"'
    for path in files("presets", "constants").values():
        try:
            found = _convert(read_toml(path), Constants, path) if quoted in path.read_text("utf-8") else None
        except (OSError, UnicodeDecodeError, TgsError):
            continue  # said by data_problems
        if found is not None and gpu in found.gpus:
            return found
    return None


@cache
def load_references() -> dict[str, list[ReferenceRow]]:
    """Published rows by preset name, XTuner's first."""
    rows: dict[str, list[ReferenceRow]] = {}
    for published in reversed(_readable("references", _published_rows).values()):
        for preset, row in published:
            rows.setdefault(preset, []).append(row)
    return rows


_ROWS = "[[rows]]"
_MAX_BYTES = 256 << 10


def references_of(preset: str) -> list[ReferenceRow]:
    """Published rows of one preset, XTuner's first; of the files only what may be about it is parsed."""
    found: list[ReferenceRow] = []
    for path in reversed(files("presets", "references").values()):
        try:
            head, *blocks = read_regular(path, _MAX_BYTES, follow=True).decode("utf-8").split(_ROWS)
            about = [block for block in blocks if preset in block]
            if not about and preset not in head:
                continue
            document = toml_document(_ROWS.join([head, *about]).encode())
            found += [row for name, row in _published_rows(document, path) if name == preset]
        except (OSError, ValueError, TgsError):
            continue  # said by data_problems
    return found


problems_met: dict[str, list[str]] = {}
"""Tables beside the presets that this process passed over, by kind, and why."""


def data_problems() -> list[str]:
    """What is wrong with the tables beside the presets, a line a file; empty when all can be read."""
    for load in (load_references, load_gpus, load_links, load_constants):
        load()
    return [problem for problems in problems_met.values() for problem in problems]


def _readable(kind: str, read: Callable[[dict[str, Any], Path], T]) -> dict[str, T]:
    """The tables of a kind by name; one damaged file must not hide the others, nor cost a run its result."""
    found: dict[str, T] = {}
    problems = problems_met[kind] = []
    for name, path in files("presets", kind).items():
        try:
            found[name] = read(read_toml(path), path)
        except TgsError as error:
            problems.append(error.msg)
    return found


def _published_rows(document: dict[str, Any], path: Path) -> list[tuple[str, ReferenceRow]]:
    published = _convert(document, PublishedRows, path)
    rows = []
    for index, raw in enumerate(published.rows):
        row = {**raw, "system": published.system}
        preset = row.pop("preset", None)
        if not isinstance(preset, str):
            raise TgsError(f"{path}: rows[{index}]: preset: missing", exit_code=ExitCode.BAD_PRESET)
        rows.append((preset, _reference_row(row, path, index)))
    return rows


def _reference_row(row: dict[str, Any], path: Path, index: int) -> ReferenceRow:
    try:
        row["seq_len"] = units.parse_length(row.get("seq_len", ""))
        return msgspec.convert(row, ReferenceRow)
    except ValueError as error:  # msgspec's ValidationError is one too
        raise TgsError(f"{path}: rows[{index}]: {reason_of(error)}", exit_code=ExitCode.BAD_PRESET) from error


def _convert(document: dict[str, Any], kind: type[T], path: Path) -> T:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise TgsError(f"{path}: {reason_of(error)}", exit_code=ExitCode.BAD_PRESET) from error
