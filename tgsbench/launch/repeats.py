"""Repeats one measurement in fresh processes: the spread between runs cannot be seen within one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import local
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Manifest, Result
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir

_ENDED_EARLY = ("cancelled", "preempted")


def free_group(root: Path, preset: Preset, name: str = "") -> str:
    """The name of a new group of runs; raises TgsError when runs of that name are there already."""
    group = name or run_dir.free_name(root, preset.name)
    if (root / member_name(group, 1)).exists():
        raise TgsError(
            f"{root / member_name(group, 1)} already exists",
            hint="choose another --name",
            exit_code=ExitCode.STORE,
        )
    return group


def member_name(group: str, index: int) -> str:
    """Name of the run `index` of a group, from 1."""
    return f"{group}-{index}"


def prepare_member(preset: Preset, root: Path, group: str, index: int) -> RunDir:
    """Make the folder of one run of a group. Raises TgsError when it cannot be written."""
    run = run_dir.create(root, preset, member_name(group, index))
    local.prepare_run(run, preset)

    def join(manifest: Manifest) -> None:
        manifest.repeat_of = group

    run.change_manifest(join)
    return run


def run_all(
    preset: Preset, root: Path, group: str, num_runs: int, supervise: Callable[[RunDir, int], Result]
) -> list[Result]:
    """Run a group one after the other; a run that was stopped is the last one."""
    found: list[Result] = []
    for index in range(1, num_runs + 1):
        found.append(supervise(prepare_member(preset, root, group, index), index))
        if found[-1].status in _ENDED_EARLY:
            break
    return found
