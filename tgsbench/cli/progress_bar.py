"""Headless progress on a terminal: a bar with the current step's figures and the time left."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from tgsbench.cli.progress import FoldedProgress, Said, narration
from tgsbench.safe_files import printable
from tgsbench.schema.events import Phase
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import VirtualGpu


def _short(max_width: int | None = None) -> Column:
    """A column of one line, however long its text is."""
    return Column(no_wrap=True, overflow="ellipsis", max_width=max_width)


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("figures", "")))


class RichProgress(FoldedProgress):
    """A bar with the current step's figures and the time left."""

    def __init__(self, preset: Preset, stream: TextIO, virtual: VirtualGpu | None = None) -> None:
        super().__init__(preset, virtual)
        console = Console(file=stream)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=_short(max_width=20)),
            BarColumn(bar_width=10),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            _Figures(table_column=_short()),
            console=console,
        )
        self._task = self._bar.add_task("init", total=self._fold.num_steps)

    def __enter__(self) -> RichProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def narrate(self, line: str) -> None:
        """Print one line above the bar."""
        self._bar.console.print(printable(line), style="dim", markup=False, highlight=False, soft_wrap=True)

    def _say(self, said: Said) -> None:
        for suspicion in said.suspicions:
            self.narrate(suspicion)
        for event in said.notices:
            if isinstance(event, Phase) and event.rank == 0:
                self._bar.update(self._task, description=printable(event.note or event.phase))
            elif words := narration(event):
                self.narrate(words)
        for total in said.totals:
            step, _, tgs, took, *_ = self._fold.figures(total)
            figures = "  ".join((step.removeprefix("step "), tgs, took))
            self._bar.update(self._task, completed=total.step + 1, figures=figures)
        if inside := self._fold.inside():
            self._bar.update(self._task, completed=self._fold.share_done, figures=inside)
