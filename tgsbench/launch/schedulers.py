"""The registry of schedulers, which the command line reads at every start.

To add one, write its module beside launch/slurm.py, as launch/scheduler.py wants it, and add a line to
SCHEDULERS: the command of its name then prints, submits, follows and cancels. Where tgsbench only writes
what another tool submits, the module is a Renderer and its line stands in MANIFESTS: `tgsbench manifest
--for NAME` then prints it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tgsbench.launch.scheduler import Renderer, Scheduler


class Registered(NamedTuple):
    """Where a scheduler is found; nothing of it is imported before its command runs."""

    module: str
    """Its attribute SCHEDULER is the scheduler."""
    summary: str
    """One line for `tgsbench --help`."""


SCHEDULERS: Final[dict[str, Registered]] = {
    "slurm": Registered(
        "tgsbench.launch.slurm", "A preset's sbatch script; submit it, follow or cancel the job."
    ),
}
"""Name of the command -> its scheduler."""
MANIFESTS: Final[dict[str, Registered]] = {
    "jobset": Registered("tgsbench.launch.jobset", "Kubernetes JobSet; submit it with kubectl create."),
    "skypilot": Registered("tgsbench.launch.skypilot", "SkyPilot task; start it with sky launch."),
    "trainjob": Registered("tgsbench.launch.trainjob", "Kubeflow TrainJob; submit it with kubectl create."),
}
"""Value of `tgsbench manifest --for` -> what renders it."""


def find(name: str) -> Scheduler:
    """The scheduler of a registered name."""
    scheduler: Scheduler = importlib.import_module(SCHEDULERS[name].module).SCHEDULER
    return scheduler


def renderer(name: str) -> Renderer:
    """What renders the manifest of a registered name."""
    found: Renderer = importlib.import_module(MANIFESTS[name].module).RENDERER
    return found
