"""A run's result: stored, or derived from its events when nobody wrote it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence

from tgsbench.errors import TgsError
from tgsbench.events.tail import RunTail
from tgsbench.metrics.observe import fold_events
from tgsbench.metrics.result import build_result
from tgsbench.presets.catalog import find_gpu
from tgsbench.safe_files import utf8
from tgsbench.schema.hotspots import IMPOSSIBLE, Profile
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Failure, Manifest, Outcome, Result, Virtual
from tgsbench.store.profiles import stored_profile
from tgsbench.store.run_dir import RunDir, age_s, disk_problem

_SILENT_S = 60.0
_CHECKED_BYTES = 64 << 20
"""Event files that are read in half a second."""
_STARTING_S = 20.0
"""A supervisor signs within a second of its start; ten times that on a busy machine."""


def result_from_folder(run: RunDir, outcome: Outcome | None = None) -> Result:
    """Derive the result from what lies in the folder, and from an outcome that could not be stored there."""
    manifest, tail = run.manifest(), RunTail(run.events_dir)
    observed, outcome = fold_events(tail.read_all(), manifest.world_size), outcome or run.outcome()
    result = build_result(
        manifest,
        run.preset(),
        observed,
        outcome,
        run.launcher_report(),
        run.environment(),
        run.stack_texts(),
        run.preset_digest(),
        tail.skipped,
        tail.incomplete if outcome is not None else (),
    )
    if manifest.virtual is not None:
        result.virtual = _virtual_account(run, manifest)
    if result.failure is not None:
        result.failure.files = run.collected()
        if result.status == "oom":
            _explain_shortfall(result, run.preset())
    with contextlib.suppress(TgsError):  # an analysis that cannot be read says nothing
        if (profile := stored_profile(run)) is not None:
            _doubt(result, profile)
    result.warnings += run.notes("run.json", "env.json")
    result.run_dir = utf8(run.path)
    return result


def _virtual_account(run: RunDir, manifest: Manifest) -> Virtual | None:
    """Imported here: it brings the planner, a tenth of the time in which a terminal UI starts."""
    from tgsbench.virtual_gpu.account import account
    from tgsbench.virtual_gpu.settings import LOG_FOLDER

    return account(run.path / LOG_FOLDER, manifest, run.preset(), list(run.events()))


def _explain_shortfall(result: Result, preset: Preset) -> None:
    """Say beside an out-of-memory error what was planned, and the smallest change that should fit."""
    from tgsbench.planner.shortfall import explain

    failure, gpu = result.failure, find_gpu(result.device)
    if failure is None or (gpu is None and result.device != "cpu"):
        return
    found = explain(preset, gpu.name if gpu else "", failure.bytes_in_use, failure.bytes_requested)
    if found is not None:
        failure.forecast = found.forecast
        failure.hint = failure.hint or found.remedy


def store_result(run: RunDir, warnings: Sequence[str] = ()) -> Result:
    """Derive the result and write result.json, with what only the launcher noticed."""
    result = result_from_folder(run)
    result.warnings += warnings
    run.write("result.json", result)
    return result


def load_result(run: RunDir) -> Result:
    """The stored result; a derived one while the run goes on (status running) or after its launcher died.

    It has the name of its folder: a copied run has another than the document inside says.
    """
    result = run.result()
    if result is not None:
        result.warnings += run.notes("result.json")
        result.run_dir = utf8(run.path)
    else:
        result = result_from_folder(run)
        if run.outcome() is None:
            _explain_silence(run, result)
    result.run_id = utf8(run.run_id)
    return result


def doubt_by_profile(run: RunDir, profile: Profile) -> None:
    """Make a stored result invalid whose traces show a kernel or a link beyond what the hardware can do."""
    stored = run.result()
    if stored is not None and _doubt(stored, profile):
        run.write("result.json", stored)


def _doubt(result: Result, profile: Profile) -> bool:
    """Add what cannot be to a result's integrity; was there anything new?"""
    told = [f"rate: {found.text}" for found in profile.findings if found.code == IMPOSSIBLE]
    new = [problem for problem in told if problem not in result.integrity.problems]
    if new:
        result.integrity.physical_ok = False
        result.integrity.problems += new
        result.status = "invalid" if result.status == "ok" else result.status
    return bool(new)


def check_against_events(run: RunDir, stored: Result) -> list[str]:
    """What a stored result says that its event files do not; nothing where they are gone, or very large."""
    if not (run.path / "result.json").exists() or not 0 < run.num_event_bytes() <= _CHECKED_BYTES:
        return []
    derived = result_from_folder(run)
    told = {
        "TGS": (stored.tgs.median, derived.tgs.median),
        "seconds a step": (stored.step_s.median, derived.step_s.median),
        "number of measured steps": (float(stored.tgs.n), float(derived.tgs.n)),
    }
    return [
        f"result.json says {what} {_figure(there)}, the event files {_figure(here)}"
        for what, (there, here) in told.items()
        if _figure(there) != _figure(here)
    ]


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _explain_silence(run: RunDir, result: Result) -> None:
    """Why no supervisor has said how the run ended: it goes on, or there was no room for its word."""
    if is_running(run):
        result.status, result.failure = "running", None
    elif result.failure is not None and result.failure.kind == "vanished" and (why := disk_problem(run.path)):
        result.failure.kind = "disk"
        result.failure.reason = f"the launcher could not write how it ended: {why}"


def load_or_describe(run: RunDir) -> Result | Failure:
    """The result, or a failure that says why the folder cannot be read; for lists that must go on."""
    try:
        return load_result(run)
    except TgsError as error:
        return Failure(kind="damaged", reason=error.msg, hint=error.hint)
    except Exception as error:  # noqa: BLE001 - a list goes on, whatever one folder holds
        return Failure(kind="damaged", reason=f"{run.path}: {type(error).__name__}: {error}")


def is_running(run: RunDir) -> bool:
    """Is the run going on: its supervisor lives here, or, on another host, its events are fresh?"""
    manifest = run.manifest()
    if manifest.host != os.uname().nodename:
        return age_s(run) < _SILENT_S
    if not manifest.supervisor_identity:  # prepared; its supervisor has not signed yet
        return time.time() - manifest.created_unix < _STARTING_S
    return run.is_alive()
