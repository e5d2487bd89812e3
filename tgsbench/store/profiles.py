"""The analysis of a run's traces, where one was stored."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import upgrade
from tgsbench.safe_files import harmless, harmless_json, read_regular, reason_of
from tgsbench.schema.hotspots import PROFILE_VERSION, Profile
from tgsbench.store.run_dir import RunDir

_MAX_BYTES = 64 << 20


def stored_profile(run: RunDir) -> Profile | None:
    """The analysis that lies in the run's folder, or None. Raises TgsError when it cannot be read."""
    path = run.path / "profile" / "hotspots.json"
    if not path.is_file():
        return None
    try:
        found = harmless(msgspec.json.decode(harmless_json(read_regular(path, _MAX_BYTES)), type=Profile))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TgsError(
            f"{path}: cannot be read: {reason_of(error)}",
            hint="delete it: it is made again from the traces",
            exit_code=ExitCode.BAD_INPUT,
        ) from error
    if found.schema_version > PROFILE_VERSION:
        raise TgsError(
            f"{path}: schema {found.schema_version}; this tgsbench reads up to {PROFILE_VERSION}",
            hint=f"upgrade tgsbench: {upgrade()}",
            exit_code=ExitCode.BAD_INPUT,
        )
    return found


def has_traces(run: RunDir) -> bool:
    """Did the run capture anything?"""
    folder = run.path / "profile"
    return folder.is_dir() and any(folder.rglob("*.pt.trace.json*"))


def profile_dir(run_path: Path) -> Path:
    """Folder of a run's traces; TgsError says how to capture some when there is none."""
    folder = run_path / "profile"
    if not folder.is_dir():
        raise TgsError(
            f"{run_path.name} holds no captured traces",
            hint="capture some: tgsbench run --preset NAME --profile hotspots",
        )
    return folder
