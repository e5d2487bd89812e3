"""What can run a preset as a job on a cluster: the protocol that each scheduler follows.

A scheduler takes no part in a run. It writes a script or manifest, hands it over, and is asked what became
of it; on the machines the script starts `tgsbench run` (launch/local.py; launch/nodes.py where they are
several), which measures and stores as it does without a scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from msgspec import Struct

    from tgsbench.schema.preset import Preset
    from tgsbench.schema.run import Outcome
    from tgsbench.store.run_dir import RunDir


class JobState(NamedTuple):
    """What a scheduler says of a job."""

    id: str
    line: str
    """State and reason for people; said again only when it changes."""
    is_over: bool
    """Will it not run again by itself?"""
    outcome: Outcome
    """What the state means for a run whose supervisor could not tell."""


class Renderer(Protocol):
    """One kind of cluster, as far as writing a job for it goes."""

    title: str
    """Its name in sentences."""
    options: type[Struct]
    """What a user may ask of it. Each field is an option of the command: its type, its default, and a
    msgspec.Meta with the help as description and, in extra, `flag` and `metavar` where they are not the
    field's name."""

    def render(self, preset: Preset, chosen: Sequence[str], wishes: Any, root: Path) -> str:
        """The script or manifest. `chosen`: the words of `tgsbench run` that choose the preset; `wishes`: of
        type `options`; `root`: a runs folder that all nodes see.

        Raises TgsError when the ranks do not spread over the nodes or a wish cannot stand in it.
        """


class Scheduler(Renderer, Protocol):
    """One kind of cluster that this machine can hand jobs to; jobs have an id that its own tools know."""

    help: str
    """What its command does, in a sentence."""
    list_hint: str
    """How to list one's jobs."""

    def submit(self, text: str, preset: Preset, root: Path) -> tuple[str, Path]:
        """Hand over what was rendered; returns the job's id and the file that was kept.

        Raises TgsError when the scheduler is not here or refuses it.
        """

    def look(self, job_id: str) -> JobState | None:
        """The job as it is now; None once the scheduler has forgotten it."""

    def cancel(self, job_id: str) -> None:
        """Ask the job to end as Ctrl-C would: what was measured is kept."""

    def runs_of(self, root: Path, job_id: str) -> list[RunDir]:
        """The run folders of a job, newest first: one for each time it was started."""

    def log_path(self, root: Path, job_id: str) -> Path:
        """Where the job's own output lies."""
